#!/bin/sh
# Print the mirror of Debian's packages, http://HOST/debian: the one that DEBIAN_MIRROR names; left
# out, the one that apt uses here. Exit status 1: there is none.
set -eu
[ -z "${DEBIAN_MIRROR:-}" ] || { echo "$DEBIAN_MIRROR"; exit 0; }
command -v apt-get >/dev/null || exit 1
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
trap 'exit 130' INT TERM
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
mkdir -p "$directory/partial"
# With empty lists it would ask for every index: what it would ask for names the mirror.
mirror=$(apt-get update --print-uris -o Dir::State::lists="$directory" |
    sed -n "s|^'\(.*/debian\)/dists/$codename/InRelease'.*|\1|p" | head -n 1)
[ -n "$mirror" ] || exit 1
echo "$mirror"
