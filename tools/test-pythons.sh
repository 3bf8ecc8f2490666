#!/bin/sh
# Run the tests that need no server on the Pythons that pyproject.toml promises, besides the one on
# which `make test` runs everything. Each has an environment of its own, .venv-VERSION.
# Usage: tools/test-pythons.sh PYTHON
# One that is not on this machine is named and left out; where CI is set, that is a failure.
set -eu
cd "$(dirname "$0")/.."
own=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# The name of a version on PATH may be a shim of pyenv that ends with an error: try what is found.
find_python() {
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python3; do
        if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

status=0
promised=$(sed -n 's/.*"Programming Language :: Python :: \(3\.[0-9]*\)".*/\1/p' pyproject.toml)
for version in $promised; do
    if [ "$version" = "$own" ]; then
        echo "Python $version: left to make test"
        continue
    fi
    python=$(find_python "$version")
    if [ -z "$python" ]; then
        echo "Python $version: skipped, it is not on this machine"
        [ -z "${CI:-}" ] || status=1
        continue
    fi
    echo "Python $version: $python"
    make --no-print-directory PYTHON="$python" VENV=".venv-$version" test-quick || status=1
done
exit "$status"
