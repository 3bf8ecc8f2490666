#!/bin/sh
# Install Debian packages if this user may, or say what to do.
# Usage: tools/apt.sh PACKAGE...
set -eu
if [ "$(id -u)" = 0 ]; then
    root=""
elif sudo -n true 2>/dev/null; then
    root="sudo"
else
    echo "Missing: $*. Install with: sudo apt-get install $*" >&2
    exit 1
fi
command -v apt-get >/dev/null || {
    echo "Missing: $*. Install it with this system's package manager." >&2
    exit 1
}
echo "Installing $* ..." >&2
export DEBIAN_FRONTEND=noninteractive
$root apt-get update -q >/dev/null
$root apt-get install -q -y --no-install-recommends "$@" >/dev/null
