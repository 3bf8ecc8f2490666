#!/bin/sh
# Make sure that the demo has a RabbitMQ: the broker that RABBITMQ_URL names, or the server program
# (the one that RABBITMQ_HOME names, if it is set), with which a private node is started. The tests
# always need the program: they block, kill and reconfigure their node.
set -eu
[ -n "${RABBITMQ_URL:-}${RABBITMQ_HOME:-}" ] && exit 0
for directory in /usr/lib/rabbitmq/bin /opt/rabbitmq/sbin /opt/homebrew/opt/rabbitmq/sbin; do
    [ -x "$directory/rabbitmq-server" ] && exit 0
done
command -v rabbitmq-server >/dev/null && exit 0
tools/apt.sh rabbitmq-server
