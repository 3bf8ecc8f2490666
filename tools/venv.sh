#!/bin/sh
# Make a virtual environment with the pinned packages and this project.
# Usage: tools/venv.sh PYTHON DIRECTORY REQUIREMENTS
set -eu
python=$1 directory=$2 requirements=$3

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "Python 3.11 or newer is needed; $python is $("$python" --version 2>&1)." >&2
    echo "Name another: make PYTHON=python3.12 ..." >&2
    exit 2
}
# Debian ships venv apart from Python.
"$python" -c 'import ensurepip, venv' 2>/dev/null || tools/apt.sh python3-venv
echo "Installing pinned packages into $directory ..." >&2
[ -x "$directory/bin/python" ] || "$python" -m venv "$directory"
"$directory/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
"$directory/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -e . -e sandbox
