"""The manifests: right for Kubernetes, and for this program."""

import json
import shutil
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from replicator import __version__
from replicator.config import Settings, load_settings
from replicator.web.server import _ROUTES
from tests.deploy.programs import DEPLOY, OVERLAY, OVERLAYS, Done, ask, read_yaml, rendered, said
from tests.support.npm import npm_directory
from tests.support.settings import describe_settings

_KUBERNETES = "1.37"
_NAMESPACE = DEPLOY / "kubernetes/namespace.yaml"
_OPERATOR = ("@kubernetes-models/prometheus-operator", "6.0.0")
_APP = {"app.kubernetes.io/name": "replicator"}
_INSTANCE = "app.kubernetes.io/instance"

Manifests = dict[str, dict[str, Any]]


def _validate(directory: Path, manifests: list[Any]) -> Done:
    file = directory / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(manifests))
    return ask("kubernetes-validate", "--strict", "-k", _KUBERNETES, file)


def test_kubernetes_knows_every_field(manifests: Manifests, tmp_path: Path) -> None:
    native = [each for each in manifests.values() if "coreos" not in each["apiVersion"]]
    assert {each["kind"] for each in native} == {
        "ConfigMap",
        "Deployment",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "PodDisruptionBudget",
        "Secret",
        "Service",
    }
    native.append(read_yaml(_NAMESPACE))
    done = _validate(tmp_path, native)
    assert done.returncode == 0, said(done)
    assert said(done).count(f"against version {_KUBERNETES}") == len(native), said(done)


def test_the_validator_would_see_a_wrong_field(container: Any, tmp_path: Path) -> None:
    wrong = {**container, "livenessProb": {}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "wrong"},
        "spec": {"containers": [wrong]},
    }
    assert _validate(tmp_path, [pod]).returncode != 0


def _operator_says(resources: list[Any]) -> list[str | None]:
    package, version = _OPERATOR
    directory = npm_directory(package, version)
    script = directory / "validate.mjs"
    script.write_text(
        f'import * as models from "{package}/monitoring.coreos.com/v1";\n'
        'import { readFileSync } from "node:fs";\n'
        "const answers = JSON.parse(readFileSync(0)).map((resource) => {\n"
        "  try { new models[resource.kind](resource).validate(); return null; }\n"
        "  catch (error) { return error.message; }\n"
        "});\n"
        "console.log(JSON.stringify(answers));\n"
    )
    done = ask("node", script, stdin=json.dumps(resources), cwd=directory)
    assert done.returncode == 0, said(done)
    answers: list[str | None] = json.loads(done.stdout)
    return answers


def test_the_prometheus_operator_knows_its_resources(manifests: Manifests) -> None:
    monitor, rule = manifests["ServiceMonitor"], manifests["PrometheusRule"]
    wrong = {**monitor, "spec": {**monitor["spec"], "endpoints": [{"port": 9464}]}}
    right_1, right_2, complaint = _operator_says([monitor, rule, wrong])
    assert (right_1, right_2) == (None, None)
    assert complaint is not None
    assert "port" in complaint


def test_the_base_stands_alone_without_the_operator() -> None:
    kinds = set(rendered(DEPLOY / "kubernetes/base"))
    assert "Deployment" in kinds
    assert not kinds & {"ServiceMonitor", "PrometheusRule"}


def test_there_is_never_a_second_process_on_the_outbox(manifests: Manifests) -> None:
    deployment = manifests["Deployment"]["spec"]
    assert deployment["replicas"] == 1
    assert deployment["strategy"] == {"type": "Recreate"}
    assert manifests["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteOnce"]
    # With one Pod, a minimum of one would stop every drain of its node.
    budget = manifests["PodDisruptionBudget"]["spec"]
    assert "minAvailable" not in budget
    assert budget["maxUnavailable"] == 1


def test_the_pod_is_as_restricted_as_its_namespace_asks(pod: Any, container: Any) -> None:
    # https://kubernetes.io/docs/concepts/security/pod-security-standards/, restricted
    labels = read_yaml(_NAMESPACE)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert pod["automountServiceAccountToken"] is False
    assert {kind for volume in pod["volumes"] for kind in volume if kind != "name"} <= {
        "configMap",
        "emptyDir",
        "persistentVolumeClaim",
        "secret",
    }
    assert {"memory", "cpu"} <= set(container["resources"]["requests"])
    assert "memory" in container["resources"]["limits"]


def test_the_reason_of_an_end_is_in_the_description_of_the_pod(container: Any) -> None:
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_names_are_resolved_wherever_the_cluster_does_it(manifests: Manifests) -> None:
    dns = manifests["NetworkPolicy"]["spec"]["egress"][0]
    in_namespace, node_local = dns["to"]
    assert list(in_namespace["namespaceSelector"]["matchLabels"].values()) == ["kube-system"]
    assert node_local == {"ipBlock": {"cidr": "169.254.20.10/32"}}
    assert [(each["protocol"], each["port"]) for each in dns["ports"]] == [("UDP", 53), ("TCP", 53)]


def test_on_openshift_the_user_is_the_namespaces_and_dns_is_found(
    manifests: Manifests, tmp_path: Path
) -> None:
    # Given a copy of the overlay with the component
    copy = tmp_path / "kubernetes"
    shutil.copytree(DEPLOY / "kubernetes", copy)
    overlay = copy / OVERLAY.relative_to(DEPLOY / "kubernetes")
    file = overlay / "kustomization.yaml"
    line = "  - ../../components/rules\n"
    assert line in file.read_text()
    added = f"{line}  - ../../components/openshift\n"
    file.write_text(file.read_text().replace(line, added))
    # When it is rendered
    there = rendered(overlay)
    # Then no id is left, everything else that restricts it is
    context = dict(manifests["Deployment"]["spec"]["template"]["spec"]["securityContext"])
    for key in ("runAsUser", "runAsGroup", "fsGroup"):
        del context[key]
    assert there["Deployment"]["spec"]["template"]["spec"]["securityContext"] == context
    dns = there["NetworkPolicy"]["spec"]["egress"][0]
    (namespace,) = dns["to"]
    assert list(namespace["namespaceSelector"]["matchLabels"].values()) == ["openshift-dns"]
    assert {each["port"] for each in dns["ports"]} == {5353}
    native = [each for each in there.values() if "coreos" not in each["apiVersion"]]
    done = _validate(tmp_path, native)
    assert done.returncode == 0, said(done)


def _selectors(manifests: Manifests) -> dict[str, dict[str, str]]:
    """Return what each resource selects Pods by; the ServiceMonitor selects Services."""
    return {
        "Deployment": manifests["Deployment"]["spec"]["selector"]["matchLabels"],
        "Service": manifests["Service"]["spec"]["selector"],
        "NetworkPolicy": manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        "PodDisruptionBudget": manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        "ServiceMonitor": manifests["ServiceMonitor"]["spec"]["selector"]["matchLabels"],
    }


def _labels(manifests: Manifests) -> dict[str, dict[str, str]]:
    """Return the labels of what is selected."""
    of_pod: dict[str, str] = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    return {"Pod": of_pod, "Service": manifests["Service"]["metadata"]["labels"]}


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_everything_selects_this_pod(overlay: Path) -> None:
    manifests = rendered(overlay)
    selectors, labels = _selectors(manifests), _labels(manifests)
    expected = {**_APP, _INSTANCE: overlay.name}
    assert [kind for kind, found in (selectors | labels).items() if found != expected] == []


def test_two_overlays_in_one_namespace_have_nothing_in_common() -> None:
    first, second = map(rendered, OVERLAYS)
    spaces = {
        each["metadata"]["namespace"]
        for manifests in (first, second)
        for each in manifests.values()
    }
    # The namespace itself is in neither: to delete one of them would delete the other's outbox.
    assert spaces == {read_yaml(_NAMESPACE)["metadata"]["name"]}
    assert "Namespace" not in first.keys() | second.keys()
    # No selector of one meets a label of the other, in either direction
    for selecting, selected in ((first, second), (second, first)):
        for kind, selector in _selectors(selecting).items():
            for labels in _labels(selected).values():
                assert not selector.items() <= labels.items(), kind
    # and neither overwrites a resource of the other.
    names = [
        {(kind, each["metadata"]["name"]) for kind, each in manifests.items()}
        for manifests in (first, second)
    ]
    assert not names[0] & names[1]
    # One of them brings the rules for both.
    assert ("PrometheusRule" in first, "PrometheusRule" in second) == (True, False)


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_the_rules_find_each_replicator_and_tell_it_from_the_others(overlay: Path) -> None:
    manifests = rendered(overlay)
    monitor, labels = manifests["ServiceMonitor"]["spec"], _labels(manifests)["Service"]
    assert labels[monitor["jobLabel"]] == "replicator"  # the job that the rules look for
    assert monitor["targetLabels"] == [_INSTANCE]


def test_the_links_to_the_runbook_can_be_given_a_base(tmp_path: Path) -> None:
    # Given a copy of the manifests with another base
    copy = tmp_path / "kubernetes"
    shutil.copytree(DEPLOY / "kubernetes", copy)
    base = copy / "components/rules/runbook-base.yaml"
    base.write_text(base.read_text().replace('base: ""', 'base: "scheme://place/of/docs/"'))
    # When it is rendered, then each alert has its link there, and nothing else is added
    manifests = rendered(copy / OVERLAY.relative_to(DEPLOY / "kubernetes"))
    assert _links(manifests) == [f"scheme://place/of/docs/{link}" for link in _links()]
    assert manifests.keys() == rendered(OVERLAY).keys()


def _links(manifests: Manifests | None = None) -> list[str]:
    groups = (manifests or rendered(OVERLAY))["PrometheusRule"]["spec"]["groups"]
    found = [
        rule["annotations"]["runbook_url"]
        for group in groups
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert len(found) > 15
    return found


def test_probes_and_scrapes_meet_the_server(
    manifests: Manifests, container: Any, tmp_path: Path
) -> None:
    listen = _settings_of_the_pod(manifests, container, tmp_path).http.listen
    assert listen is not None
    assert listen.host == "0.0.0.0"
    (port,) = container["ports"]
    # Server-side apply of older Kubernetes takes no port without its protocol.
    assert (port["containerPort"], port["protocol"]) == (listen.port, "TCP")
    for probe, path in [
        ("startupProbe", "/livez"),
        ("livenessProbe", "/livez"),
        ("readinessProbe", "/readyz"),
    ]:
        assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}
        assert path in _ROUTES
    (of_service,) = manifests["Service"]["spec"]["ports"]
    assert of_service["protocol"] == "TCP"
    assert (of_service["port"], of_service["targetPort"]) == (listen.port, port["name"])
    # Metrics are wanted most while the Pod is not ready.
    assert manifests["Service"]["spec"]["publishNotReadyAddresses"] is True
    (endpoint,) = manifests["ServiceMonitor"]["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == (of_service["name"], "/metrics")
    assert endpoint["path"] in _ROUTES
    (allowed,) = manifests["NetworkPolicy"]["spec"]["ingress"]
    assert [each["port"] for each in allowed["ports"]] == [listen.port]


def test_the_settings_of_the_pod_are_taken(
    manifests: Manifests, pod: Any, container: Any, tmp_path: Path
) -> None:
    settings = _settings_of_the_pod(manifests, container, tmp_path)
    assert settings.rabbitmq.password == "replace-me"
    assert settings.rethinkdb.password == "replace-me"
    assert [table.name for table in settings.tables] == ["shop.orders", "shop.customers"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    outbox = Path(settings.outbox.url.removeprefix("sqlite:///"))
    assert str(outbox.parent) == mounts["outbox"]["mountPath"]
    assert "readOnly" not in mounts["outbox"]
    # Kubernetes kills at the end of the grace period, so the drain must be over before.
    grace = timedelta(seconds=pod["terminationGracePeriodSeconds"])
    assert grace > settings.drain_timeout + timedelta(seconds=30)
    claim = manifests["PersistentVolumeClaim"]["spec"]["resources"]["requests"]["storage"]
    assert int(claim.removesuffix("Gi")) * 2**30 > 1.5 * settings.outbox.max_bytes
    # The network policy lets out what the addresses need.
    ports = {
        port["port"]
        for rule in manifests["NetworkPolicy"]["spec"]["egress"]
        for port in rule["ports"]
    }
    assert {host.port for host in settings.rethinkdb.url.hosts} <= ports
    assert {host.port for host in settings.rabbitmq.url.hosts} <= ports


def _settings_of_the_pod(manifests: Manifests, container: Any, directory: Path) -> Settings:
    """Load the settings as in the Pod: what is mounted there lies under a directory here."""
    mounts = {
        mount["name"]: directory / mount["mountPath"][1:] for mount in container["volumeMounts"]
    }
    for name, content in [
        ("settings", manifests["ConfigMap"]["data"]),
        ("passwords", dict.fromkeys(manifests["Secret"]["data"], "replace-me")),
    ]:
        mounts[name].mkdir(parents=True, exist_ok=True)
        for key, text in content.items():
            (mounts[name] / key).write_text(text)
    environment = {each["name"]: each["value"] for each in container["env"]}
    for name, value in environment.items():
        if name.endswith(("_FILE", "_CONFIG")):
            environment[name] = f"{directory}{value}"
    return load_settings(environ=environment)


def test_what_the_pod_mounts_exists(manifests: Manifests, pod: Any, container: Any) -> None:
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    named = {kind: manifests[kind]["metadata"]["name"] for kind in ("ConfigMap", "Secret")}
    assert volumes["settings"]["configMap"]["name"] == named["ConfigMap"]
    assert volumes["passwords"]["secret"]["secretName"] == named["Secret"]
    claim = volumes["outbox"]["persistentVolumeClaim"]["claimName"]
    assert claim == manifests["PersistentVolumeClaim"]["metadata"]["name"]
    # The replicator runs as this group and reads the passwords as it.
    assert volumes["passwords"]["secret"]["defaultMode"] == 0o440
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsGroup"]


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_every_setting_is_one(overlay: Path) -> None:
    text = (overlay / "replicator.toml").read_text()
    keys = {setting.key for setting in describe_settings()}
    found = set(_keys(tomllib.loads(text), ""))
    assert found
    assert found <= keys


def _keys(table: dict[str, Any], prefix: str) -> list[str]:
    found = []
    for name, value in table.items():
        if isinstance(value, dict):
            found += _keys(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            found += [key for each in value for key in _keys(each, f"{prefix}{name}[].")]
        else:
            found.append(prefix + name)
    return found


@pytest.mark.parametrize("which", ["base", "overlays/production", "overlays/billing"])
def test_the_image_has_this_version(which: str) -> None:
    deployment = rendered(DEPLOY / "kubernetes" / which)["Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    name, _, tag = container["image"].rpartition(":")
    assert name.endswith("replicator")
    assert tag == __version__
