#!/bin/sh
# Ask whether any package of requirements.txt has a known weakness.
# Usage: tools/audit.sh PYTHON DIRECTORY
# Exit status: 0: none has; 1: some have; 75: it could not be found out, and the output says why.
set -eu
cd "$(dirname "$0")/.."
python=$1 directory=$2
[ -x "$directory/bin/python" ] || "$python" -m venv "$directory"
"$directory/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
    -r requirements-audit.txt || {
    echo "audit: could not run: pip-audit cannot be installed here" >&2
    exit 75
}
exec "$directory/bin/python" tools/audit.py requirements.txt
