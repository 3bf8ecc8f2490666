"""Names in rules, dashboard and pages are those of the program, and lead to a runbook entry."""

import re
from pathlib import Path

from tests.deploy.expressions import of_alerts, of_dashboard, of_recordings, panels, rules
from tests.deploy.programs import DEPLOY, GRAFANA, PROJECT, ask, read_yaml, said
from tests.support.samples import metrics, samples

_OPERATIONS = PROJECT / "docs/operations.md"
_METRIC = re.compile(r"\breplicator_\w+")
_RECORDED = re.compile(r"\b\w+:replicator_\w+:\w+")


def _anchors() -> set[str]:
    headings = re.findall(r"^#+ (.+)$", _OPERATIONS.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_metric_in_use_exists_with_its_labels() -> None:
    used, known = set(), samples()
    for place, text in (*of_dashboard(), *of_recordings(), *of_alerts()):
        plain = _RECORDED.sub("", text)
        for name in _METRIC.findall(plain):
            assert name in known, f"{place}: {name}"
            used.add(name)
        for name, selector in re.findall(r"\b(replicator_\w+)\{([^}]*)\}", plain):
            labels = set(re.findall(r"(\w+)=", selector)) - {"job", "instance"}
            assert labels <= known[name], f"{place}: {name} {labels}"
    plain_names = {re.sub(r"_(bucket|count|sum)$", "", name) for name in known}
    shown = {re.sub(r"_bucket$", "", name) for name in used}
    assert plain_names <= shown, f"on no panel and in no rule: {plain_names - shown}"


def test_every_value_of_a_label_in_use_exists() -> None:
    values: dict[str, set[str]] = {}
    for family in metrics().registry.collect():
        for sample in family.samples:
            for label, value in sample.labels.items():
                values.setdefault(label, set()).add(value)
    for place, text in (*of_dashboard(), *of_recordings(), *of_alerts()):
        for label in ("state", "cause", "outcome", "peer", "reason"):
            for pattern in re.findall(rf'\b{label}=~?"([^"]*)"', text):
                assert set(pattern.split("|")) <= values[label], f"{place}: {pattern}"


def test_the_rules_take_the_outboxs_limits_from_its_settings() -> None:
    by_name = {rule["alert"]: rule["expr"] for rule in rules("alert")}
    assert "/ replicator_outbox_max_entries >" in by_name["ReplicatorOutboxFilling"]
    assert "/ replicator_outbox_max_bytes >" in by_name["ReplicatorOutboxBytesFilling"]
    assert by_name["ReplicatorOutboxWillBeFull"].count("/ replicator_outbox_max_bytes >") == 2


def test_every_alert_has_its_runbook_entry_and_its_tests() -> None:
    anchors = _anchors()
    fires, is_silent = set(), set()
    for file in (DEPLOY / "prometheus/rules_tests").glob("*.yaml"):
        for test in read_yaml(file)["tests"]:
            for check in test.get("alert_rule_test", []):
                (fires if check["exp_alerts"] else is_silent).add(check["alertname"])
    names = [rule["alert"] for rule in rules("alert")]
    assert len(set(names)) == len(names)
    for rule in rules("alert"):
        name = rule["alert"]
        assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{name.lower()}"
        assert name.lower() in anchors, name
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert fires == is_silent == set(names)


def test_every_alerts_entry_says_what_to_see_and_what_to_do() -> None:
    entries = re.split(r"^### ", _OPERATIONS.read_text(), flags=re.MULTILINE)[1:]
    by_name = {entry.partition("\n")[0]: entry for entry in entries}
    for rule in rules("alert"):
        entry = by_name[rule["alert"]]
        for part in ("**Means.**", "**See.**", "**Do.**"):
            assert part in entry, f"{rule['alert']} lacks {part}"


def test_every_recording_rule_is_tested() -> None:
    tests = (DEPLOY / "prometheus/rules_tests/recorded.yaml").read_text()
    for rule in rules("record"):
        assert f"expr: {rule['record']}\n" in tests


def test_every_panel_is_in_the_readme_with_its_metric_and_its_entry() -> None:
    anchors = _anchors()
    readme = (GRAFANA / "README.md").read_text()
    rows = [line for line in readme.splitlines() if line.startswith("| ") and "](" in line]
    documented = {row.split(" | ")[0].removeprefix("| "): row for row in rows}
    assert set(documented) == {panel["title"] for panel in panels()}
    for panel in panels():
        row = documented[panel["title"]]
        for target in panel["targets"]:
            for name in _METRIC.findall(target["expr"]):
                assert f"`{name.removesuffix('_bucket')}`" in row, f"{panel['title']}: {name}"
        anchor = panel["description"].rpartition("#")[2]
        assert anchor in anchors, f"{panel['title']}: {anchor}"
        assert f"docs/operations.md#{anchor})" in row


def test_the_files_that_are_made_are_up_to_date() -> None:
    done = ask("python", "tools/monitoring.py", "--check")
    assert (done.returncode, said(done)) == (0, "")


def test_a_stale_file_is_told(tmp_path: Path) -> None:
    # Given a copy of the project's files with another rule than the operator's
    for name in ("grafana", "deploy/prometheus", "deploy/kubernetes", "tools"):
        target = tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(PROJECT / name, target)
    rules_file = tmp_path / "deploy/prometheus/rules.yaml"
    rules_file.write_text(rules_file.read_text().replace("for: 3m", "for: 4m"))
    # When it is checked, then the file is named; when it is written, then all is well
    check = [str(tmp_path / "tools/monitoring.py"), "--check"]
    stale = ask("python", *check)
    assert stale.returncode == 1
    assert stale.stderr.startswith("deploy/kubernetes/components/rules/prometheus-rule.yaml")
    assert ask("python", check[0]).returncode == 0
    assert ask("python", *check).returncode == 0


def _copy(source: Path, target: Path) -> None:
    for file in source.rglob("*"):
        if file.is_file():
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
