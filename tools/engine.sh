#!/bin/sh
# Run a command with an engine for containers: the Docker that answers, or else podman, installed if
# this user may, with a storage of its own that goes away with the command.
# Usage: tools/engine.sh COMMAND...
# The command finds CONTAINER_ENGINE (docker or podman) and, in CONTAINER_BUILD, what to build with;
# python:TAG, which deploy/Dockerfile begins from, is there or can be pulled.
set -eu
cd "$(dirname "$0")/.."

if docker info >/dev/null 2>&1; then
    CONTAINER_ENGINE=docker CONTAINER_BUILD="docker build" exec "$@"
fi
command -v podman >/dev/null && command -v runc >/dev/null || tools/apt.sh podman runc catatonit

directory=$(mktemp -d "${TMPDIR:-/var/tmp}/replicator-engine.XXXXXX")
finish() {
    podman rm --all --force --time 0 >/dev/null 2>&1 || true
    umount "$directory"/graph/* 2>/dev/null || true
    rm -rf --one-file-system "$directory"
}
export CONTAINERS_STORAGE_CONF="$directory/storage.conf" CONTAINERS_CONF="$directory/containers.conf"
trap finish EXIT
trap 'exit 130' INT TERM

# On an overlay, as in a container of CI, there can be no other.
case $(stat -f -c %T "$directory") in overlay*) driver=vfs ;; *) driver=overlay ;; esac
cat >"$CONTAINERS_STORAGE_CONF" <<STORAGE
[storage]
driver = "$driver"
graphroot = "$directory/graph"
runroot = "$directory/run"
STORAGE
# Without systemd: its cgroups and its journal are not there.
cat >"$CONTAINERS_CONF" <<CONTAINERS
[containers]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "unlimited"
[engine.runtimes]
unlimited = ["$PWD/tools/runtime.py"]
CONTAINERS

# As this machine trusts, and as its pip is configured by the environment.
bundle=/etc/ssl/certs/ca-certificates.crt
build="podman build --format docker --pull=never --network host --isolation chroot"
if [ -r "$bundle" ]; then
    printf '[global]\ncert = %s\n' "$bundle" >"$directory/pip.conf"
    [ -z "${PIP_INDEX_URL:-}" ] || echo "index-url = $PIP_INDEX_URL" >>"$directory/pip.conf"
    build="$build --volume $bundle:$bundle:ro --volume $directory/pip.conf:/etc/pip.conf:ro"
fi
tag=$(sed -n 's/^ARG PYTHON=//p' deploy/Dockerfile)
python=docker.io/library/python:$tag
timeout 300 podman pull --quiet "$python" >/dev/null 2>&1 || {
    archive=$(tools/debian-base.sh "${tag##*-}" ca-certificates,python3-venv,python-is-python3)
    echo "No registry answers: Debian's Python stands in for python:$tag." >&2
    podman import --quiet "$archive" "$python" >/dev/null
}
CONTAINER_ENGINE=podman CONTAINER_BUILD="$build" "$@"
