#!/bin/sh
# Build the image and run it. Inside tools/engine.sh.
# Usage: tools/engine.sh tools/image-check.sh BIN
set -eu
cd "$(dirname "$0")/.."
bin=$1
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
trap 'exit 130' INT TERM
# Of a clone that only its owner can read, and without what is not part of the project.
mkdir "$directory/clone"
git ls-files -z deploy replicator migrations '*.toml' '*.md' '*.txt' LICENSE |
    tar --create --null --files-from=- |
    (umask 077 && tar --extract --no-same-permissions --directory="$directory/clone")
export CONTAINER_IMAGE=localhost/replicator:check
$CONTAINER_BUILD --file "$directory/clone/deploy/Dockerfile" --tag "$CONTAINER_IMAGE" \
    "$directory/clone" >"$directory/log" 2>&1 || { tail -n 40 "$directory/log"; exit 1; }
"$bin/python" -m pytest -q -p no:cacheprovider tests/image
