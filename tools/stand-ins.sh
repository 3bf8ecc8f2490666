#!/bin/sh
# Build the replicator's image and have those of deploy/compose.yaml: pulled, or where no registry
# answers, made of Debian's packages and of sandbox/.
# Usage: tools/stand-ins.sh CLONE
# Exit status: 0 all are the real ones, 1 some are stand-ins; 2: failed.
set -eu
cd "$(dirname "$0")/.."
clone=$1
images=$(sed -n 's/^ *image: \([a-z].*\)/\1/p' "$clone/deploy/compose.yaml")
image() { echo "$images" | grep "^$1:\|/$1:"; }
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' replicator/__init__.py)
log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 130' INT TERM
$CONTAINER_BUILD --file "$clone/deploy/Dockerfile" --tag "replicator:$version" "$clone" \
    >"$log" 2>&1 || { tail -n 40 "$log"; exit 2; }

pulled=yes
for name in $images; do
    timeout 300 "$CONTAINER_ENGINE" pull --quiet "$name" >/dev/null 2>&1 || { pulled=no; break; }
done
[ "$pulled" = no ] || exit 0
[ "$CONTAINER_ENGINE" = podman ] || { echo "an image cannot be pulled" >&2; exit 2; }

build() { # IMAGE: a Dockerfile on standard input
    podman build --format docker --pull=never --network host --isolation chroot \
        --file - --tag "docker.io/$1" "$clone/sandbox" >"$log" 2>&1 || { tail -n 40 "$log"; exit 2; }
}
build "$(image rethinkdb | sed 's|^|library/|')" <<RETHINKDB
FROM localhost/replicator:$version
USER root
COPY replicator_sandbox /opt/replicator/lib/python3.13/site-packages/replicator_sandbox
RUN printf '%s\n' '#!/opt/replicator/bin/python' 'import signal' \
    'from replicator_sandbox import EmbeddedRethinkDB' \
    'with EmbeddedRethinkDB(host="0.0.0.0", port=28015):' \
    '    signal.pause()' >/usr/local/bin/rethinkdb && chmod +x /usr/local/bin/rethinkdb
ENTRYPOINT []
HEALTHCHECK NONE
RETHINKDB
archive=$(tools/debian-base.sh trixie rabbitmq-server,prometheus)
podman import --quiet "$archive" localhost/servers >/dev/null
build "$(image rabbitmq | sed 's|^|library/|')" <<'RABBITMQ'
FROM localhost/servers
RUN printf '%s\n' '#!/bin/sh' \
    'printf "default_user = %s\ndefault_pass = %s\nloopback_users = none\n" \
    "$RABBITMQ_DEFAULT_USER" "$RABBITMQ_DEFAULT_PASS" >/etc/rabbitmq/rabbitmq.conf' \
    'chown -R rabbitmq:rabbitmq /var/lib/rabbitmq' \
    'exec rabbitmq-server' >/usr/local/bin/start && chmod +x /usr/local/bin/start
CMD ["start"]
RABBITMQ
build "$(image prometheus)" <<'PROMETHEUS'
FROM localhost/servers
RUN install -d -o nobody /prometheus
USER nobody
ENTRYPOINT ["prometheus"]
PROMETHEUS
exit 1
