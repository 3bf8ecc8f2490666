#!/bin/sh
# Migrate an empty database to the head and compare it with the declared schema.
# Usage: tools/check-migrations.sh ALEMBIC
set -eu
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"$1" -x "url=sqlite:///$directory/check.db" upgrade head
"$1" -x "url=sqlite:///$directory/check.db" check
