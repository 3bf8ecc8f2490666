#!/bin/sh
# Make a base image of Debian's packages, once, and print where its archive is.
# Usage: tools/debian-base.sh SUITE PACKAGE,...
# Archives are kept in the user's cache: they take a minute to make. DEBIAN_MIRROR names the mirror:
# tools/mirror.sh; where neither it nor apt has one, it is mmdebstrap's own.
set -eu
cd "$(dirname "$0")/.."
suite=$1 packages=$2
cache=${XDG_CACHE_HOME:-$HOME/.cache}/replicator
archive=$cache/$suite-$(printf %s "$packages" | cksum | cut -d' ' -f1).tar
if [ ! -e "$archive" ]; then
    command -v mmdebstrap >/dev/null || tools/apt.sh mmdebstrap
    mkdir -p "$cache"
    part=$(mktemp "$cache/part.XXXXXX")
    trap 'rm -f "$part"' EXIT
    trap 'exit 130' INT TERM
    mirror=$(tools/mirror.sh) || mirror=""
    mmdebstrap --quiet --format=tar --variant=minbase "--include=$packages" "$suite" - \
        ${mirror:+"$mirror"} >"$part" </dev/null
    # Whoever makes it at the same time makes the same.
    mv "$part" "$archive"
fi
echo "$archive"
