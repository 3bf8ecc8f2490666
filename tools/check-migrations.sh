#!/bin/sh
# Migrate an empty database to the head and compare it with the declared schema; then go back, to
# the first schema and to none, and forward again.
# Usage: tools/check-migrations.sh ALEMBIC
set -eu
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
trap 'exit 130' INT TERM
"$1" -x "url=sqlite:///$directory/check.db" upgrade head
"$1" -x "url=sqlite:///$directory/check.db" check
for revision in 0001 base; do
    "$1" -x "url=sqlite:///$directory/check.db" downgrade "$revision"
    "$1" -x "url=sqlite:///$directory/check.db" upgrade head
    "$1" -x "url=sqlite:///$directory/check.db" check
done
