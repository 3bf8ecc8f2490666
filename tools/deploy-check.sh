#!/bin/sh
# Check what is deployed with the programs that will read it; nothing is started or applied.
# Usage: tools/deploy-check.sh BIN
# BIN has kubectl, kubernetes-validate, hadolint and docker-compose (requirements-dev.txt).
set -eu
cd "$(dirname "$0")/.."
bin=$1
command -v promtool >/dev/null || tools/apt.sh prometheus
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
trap 'exit 130' INT TERM

"$bin/python" tools/monitoring.py --check
promtool check config --syntax-only deploy/prometheus/prometheus.yaml
promtool check rules deploy/prometheus/rules.yaml
promtool test rules deploy/prometheus/rules_tests/*.yaml
"$bin/hadolint" deploy/Dockerfile
"$bin/docker-compose" -f deploy/compose.yaml config --quiet
for overlay in base overlays/production overlays/billing; do
    "$bin/kubectl" kustomize "deploy/kubernetes/$overlay" >"$directory/manifests.yaml"
    # It lacks the Prometheus operator's schemas, and warns of it: tests/deploy checks those.
    "$bin/kubernetes-validate" --strict --quiet --no-warn -k 1.37 "$directory/manifests.yaml"
done
"$bin/kubernetes-validate" --strict --quiet --no-warn -k 1.37 deploy/kubernetes/namespace.yaml
# A laptop without systemd does not want it for this.
command -v systemd-analyze >/dev/null || [ -z "${CI:-}" ] || tools/apt.sh systemd
if command -v systemd-analyze >/dev/null; then
    # The program need not be installed here.
    sed 's|^ExecStart=.*|ExecStart=/bin/true|' deploy/systemd/replicator.service \
        >"$directory/replicator.service"
    # A key that it does not know is only a warning to it.
    complaints=$(systemd-analyze verify "$directory/replicator.service" 2>&1) || true
    [ -z "$complaints" ] || { echo "$complaints" >&2; exit 1; }
    systemd-analyze security --no-pager --offline=true --threshold=20 \
        "$directory/replicator.service" >"$directory/exposure" || { cat "$directory/exposure"; exit 1; }
else
    echo "deploy: skipped the unit of systemd: systemd-analyze is not installed here" >&2
fi
echo "deploy: no complaints"
