#!/bin/sh
# Bring deploy/compose.yaml up from a clone that only its owner can read, wait until the replicator
# is ready and watched, follow a document into the queue, and restart it. Inside tools/engine.sh.
# Usage: tools/engine.sh tools/compose-check.sh BIN
set -eu
cd "$(dirname "$0")/.."
bin=$(realpath "$1")
project=replicator-check-$$
directory=$(mktemp -d "${TMPDIR:-/var/tmp}/replicator-compose.XXXXXX")
clone=$directory/clone
file=$clone/deploy/compose.yaml
space="" service="" here="" is_up=""
services="rethinkdb rabbitmq files table replicator prometheus grafana"

# A project of its own: the one that the file names may be the user's, with his volumes.
compose() { $here "$bin/docker-compose" -p "$project" -f "$file" "$@"; }
finish() {
    [ -z "$is_up" ] || compose down --volumes --timeout 30 >/dev/null 2>&1 || true
    [ -z "$service" ] || kill "$service" 2>/dev/null || true
    [ -z "$space" ] || ip netns delete "$space"
    rm -rf "$directory"
}
trap finish EXIT
trap 'exit 130' INT TERM

mkdir "$clone"
git ls-files -z | tar --create --null --files-from=- |
    (umask 077 && tar --extract --no-same-permissions --directory="$clone")

if [ "$CONTAINER_ENGINE" = podman ]; then
    # In a network of its own: podman would change this machine's firewall and forwarding.
    command -v ip >/dev/null && [ -x /usr/lib/podman/netavark ] ||
        tools/apt.sh iproute2 iptables netavark aardvark-dns
    space=replicator-$$
    ip netns add "$space"
    ip -netns "$space" link set lo up
    here="nsenter --net=/run/netns/$space"
    cat >>"$CONTAINERS_CONF" <<CONTAINERS
[network]
network_backend = "netavark"
network_config_dir = "${CONTAINERS_CONF%/*}/networks"
CONTAINERS
    $here podman system service --time=0 "unix://$directory/socket" >"$directory/service.log" 2>&1 &
    service=$!
    export DOCKER_HOST="unix://$directory/socket" DOCKER_CONFIG="$directory"
    echo '{}' >"$directory/config.json"
fi
status=0
tools/stand-ins.sh "$clone" || status=$?
case $status in
    0) ;;
    1)
        echo "No registry answers: Debian's servers and the embedded RethinkDB stand in; no Grafana." >&2
        services="rethinkdb rabbitmq files table replicator prometheus"
        ;;
    *) exit "$status" ;;
esac

# Without systemd nobody else runs podman's health checks.
look_after() {
    [ "$CONTAINER_ENGINE" != podman ] || for name in $(podman ps --quiet); do
        podman healthcheck run "$name" >/dev/null 2>&1 || true
    done
}
until_true() { # WHAT SECONDS COMMAND...
    what=$1 left=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || { echo "compose: $what: no" >&2; compose ps -a; compose logs --tail 20; exit 1; }
        look_after
        sleep 1
    done
    echo "compose: $what" >&2
}
get() { $here "$bin/python" -c 'import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).read().decode())' "$1"; }
has() { get "$1" | grep -q "$2"; }
# Not by Compose: with podman it leaves a process behind for five minutes.
within() { service_name=$1; shift; "$CONTAINER_ENGINE" exec "$project-$service_name-1" "$@"; }
queued() { within rabbitmq rabbitmqctl --quiet list_queues messages | grep -qx "$1"; }
write() {
    within replicator python -c "
from rethinkdb import r
r.db('change_example').table('mytable').insert({'id': '$1'}).run(r.connect('rethinkdb'))"
}

begun=$(date +%s)
is_up=yes
# shellcheck disable=SC2086 # names of services
compose up --detach --no-build $services >"$directory/up.log" 2>&1 &
until_true "the replicator is ready" 240 get http://127.0.0.1:9464/readyz
echo "compose: $(($(date +%s) - begun)) s after up" >&2
write first
until_true "a document is in the queue" 60 queued 1
until_true "Prometheus has its rules" 60 has http://127.0.0.1:9090/api/v1/rules ReplicatorDown
until_true "Prometheus scrapes it" 60 has http://127.0.0.1:9090/api/v1/targets '"health":"up"'
compose restart replicator >/dev/null 2>&1
until_true "it is ready after a restart" 120 get http://127.0.0.1:9464/readyz
write second
until_true "the next document is in the queue" 60 queued 2
echo "compose: no complaints" >&2
