#!/bin/sh
# Unpack Debian 13's RabbitMQ 4 with all that it needs into DIRECTORY: a RABBITMQ_HOME for tests,
# demo and benchmarks, beside the RabbitMQ of this machine. Nothing is installed, no script of a
# package runs, and it needs no root. Safe to repeat: a directory that is there is kept.
# Usage: tools/rabbitmq4.sh DIRECTORY
# DEBIAN_MIRROR names the mirror: tools/mirror.sh.
set -eu
directory=$1
server=usr/lib/rabbitmq/bin/rabbitmq-server
[ -x "$directory/$server" ] && exit 0
fail() {
    echo "RabbitMQ 4 cannot be had here: $1" >&2
    exit 1
}
[ -z "$(ls -A "$directory" 2>/dev/null)" ] ||
    fail "$directory exists, and is neither empty nor a Debian tree with RabbitMQ"
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || fail "this is not a Debian"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r "$keyring" ] || "$(dirname "$0")/apt.sh" debian-archive-keyring

mkdir -p "$(dirname "$directory")"
# Beside the directory, so that it can be renamed when it is whole.
work=$(mktemp -d "$directory.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/none" "$work/tree"
: >"$work/status"

mirror=$("$(dirname "$0")/mirror.sh") ||
    fail "apt has no mirror of Debian; name one with DEBIAN_MIRROR"
echo "deb [signed-by=$keyring] $mirror trixie main" >"$work/sources.list"
# This machine's apt, with its proxy and its CAs, on lists of its own: as if nothing was installed.
apt() {
    apt-get -q -q -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts="$work/none" \
        -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts="$work/none" \
        -o Dir::State::lists="$work/lists" -o Dir::State::status="$work/status" \
        -o Dir::Cache::archives="$work/archives" -o Dir::Cache::pkgcache= \
        -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User= -o Debug::NoLocking=1 "$@"
}
echo "Unpacking RabbitMQ 4 into $directory ..." >&2
apt update >&2
apt install --yes --download-only --no-install-recommends rabbitmq-server '?essential' >&2
for package in "$work"/archives/*.deb; do
    dpkg-deb --extract "$package" "$work/tree"
done
[ -x "$work/tree/$server" ] || fail "its package has no $server"
# Another run may have been faster.
mv -T "$work/tree" "$directory" 2>/dev/null || [ -x "$directory/$server" ]
