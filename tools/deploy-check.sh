#!/bin/sh
# Let the programs that will read what is deployed judge it: nothing is started, nothing is applied.
# Usage: tools/deploy-check.sh BIN
# BIN has kubectl, kubernetes-validate, hadolint and docker-compose (requirements-dev.txt).
set -eu
cd "$(dirname "$0")/.."
bin=$1
command -v promtool >/dev/null || tools/apt.sh prometheus
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

"$bin/python" tools/monitoring.py --check
promtool check config --syntax-only deploy/prometheus/prometheus.yaml
promtool check rules deploy/prometheus/rules.yaml
promtool test rules deploy/prometheus/rules_tests/*.yaml
"$bin/hadolint" deploy/Dockerfile
"$bin/docker-compose" -f deploy/compose.yaml config --quiet
for overlay in base overlays/production overlays/billing; do
    "$bin/kubectl" kustomize "deploy/kubernetes/$overlay" >"$directory/manifests.yaml"
    # It has no schemas of the Prometheus operator, and says so: tests/deploy looks at those.
    "$bin/kubernetes-validate" --strict --quiet --no-warn -k 1.37 "$directory/manifests.yaml"
done
echo "deploy: no complaint"
