#!/bin/sh
# Install the programs that the tests use besides RabbitMQ: a test without its program is skipped on
# a laptop, and fails where CI is set.
set -eu
cd "$(dirname "$0")/.."
# Prometheus scrapes a replicator in a test; promtool checks metrics, rules and their alerts.
command -v promtool >/dev/null || tools/apt.sh prometheus
# The tutorial's JavaScript listener, RethinkDB's JavaScript driver, the linter of workflows.
command -v npm >/dev/null || tools/apt.sh nodejs npm
# Gives a test's process another time; without it that fault is left out.
ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1 || tools/apt.sh libfaketime
# The page for people is tested in a real browser.
command -v chromium >/dev/null || tools/apt.sh chromium
