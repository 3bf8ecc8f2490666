"""What pages name exists: files, tests, settings, variables of the environment, metrics."""

import re
from collections.abc import Iterator

from replicator import __version__
from tests.docs.pages import PAGES, PROJECT, all_code, markdown, read, rows
from tests.support.samples import metrics, samples
from tests.support.settings import describe_settings

# What is told of versions that are past may name what is gone since.
_OF_TODAY = [page for page in PAGES if page != "CHANGELOG.md"]
_ROOMS = (
    *("replicator", "sandbox", "migrations", "tests", "tools", "deploy", "grafana", "docs"),
    *("benchmarks", ".ci", ".github"),
)
_FILES = [
    "/" + path.relative_to(PROJECT).as_posix()
    for room in _ROOMS
    for path in (PROJECT / room, *PROJECT.joinpath(room).rglob("*"))
]
_MADE_LATER = ("benchmarks/results", "sandbox/dist/")

_SETTINGS = {setting.key: setting.environment for setting in describe_settings()}
_SECTIONS = sorted({key.partition(".")[0] for key in _SETTINGS if "." in key})
_NOT_SETTINGS = {"rethinkdb.table_config", "outbox.db"}
_ENVIRONMENT = {name for name in _SETTINGS.values() if name} | {"REPLICATOR_CONFIG"}
# Made by Kubernetes, and passed over.
_NOT_OURS = {"REPLICATOR_SERVICE_HOST", "REPLICATOR_PORT_9464_TCP"}

_METRIC = re.compile(r"(?<!:)\breplicator_[a-z_]+")
_NOT_METRICS = {"replicator_sandbox"}
_OPEN_VALUES = {"a.b", __version__}  # of labels whose values cannot be listed


def _spans(pattern: str) -> Iterator[tuple[str, str]]:
    """Yield page and text of the code in sentences that looks like this."""
    for each in all_code():
        if each.page in _OF_TODAY and not each.is_block and re.fullmatch(pattern, each.text):
            yield each.page, each.text


def _is_there(name: str) -> bool:
    pattern = re.escape("/" + name.rstrip("/").partition("#")[0]).replace(r"\*", r"[^/]*")
    return any(re.search(f"{pattern}$", file) for file in _FILES)


def test_every_file_that_is_named_exists() -> None:
    in_a_room = rf"(?:{'|'.join(map(re.escape, _ROOMS))})/.*"
    named = {*_spans(r"[\w/.*-]+\.(?:py|sh)"), *_spans(in_a_room)}
    gone = {
        (page, name)
        for page, name in named
        if not _is_there(name) and not name.startswith(_MADE_LATER)
    }

    assert len(named) > 40
    assert not gone


def test_every_test_that_is_named_exists() -> None:
    source = "".join(path.read_text() for path in PROJECT.glob("tests/**/test_*.py"))
    for page, name in _spans(r"test_\w+"):
        assert f"def {name}(" in source, f"{page}: {name}"


def test_every_method_that_is_named_exists() -> None:
    source = "".join(path.read_text() for path in PROJECT.glob("replicator/**/*.py"))
    for page, text in _spans(r"[A-Z][a-z]\w*\.[a-z]\w+(?:\(.*\))?"):
        owner, _, name = text.partition("(")[0].partition(".")
        assert re.search(rf"class {owner}\b", source), f"{page}: {text}"
        assert re.search(rf"def {name}\(|\b{name}: ", source), f"{page}: {text}"


def test_every_setting_that_is_named_exists() -> None:
    sections = "|".join(map(re.escape, _SECTIONS))
    named = {
        (page, re.split(r" ?=", text)[0])
        for page, text in _spans(rf"(?:{sections})\.[a-z_]+(?:\[\])?(?:\.[a-z_]+)?(?: ?=.*)?")
    }

    assert len(named) > 40
    assert {each for each in named if each[1] not in {*_SETTINGS, *_NOT_SETTINGS}} == set()


def test_every_variable_that_is_named_exists() -> None:
    known = {*_ENVIRONMENT, *_NOT_OURS, "REPLICATOR_"}
    for page in _OF_TODAY:
        for name in re.findall(r"\bREPLICATOR_\w*", read(page)):
            assert name in known, f"{page}: {name}"


def test_every_metric_that_is_named_exists() -> None:
    known = {*samples(), *_NOT_METRICS}
    for page in _OF_TODAY:
        for token in markdown().parse(read(page)):
            for name in _METRIC.findall(token.content):
                is_start = name.endswith("_") and any(each.startswith(name) for each in known)
                is_histogram = f"{name}_bucket" in known
                assert name in known or is_start or is_histogram, f"{page}: {name}"


def _labels(cell: str) -> dict[str, set[str]]:
    """Return the labels of a row of the table, with the values that it lists."""
    found = re.findall(r"`(\w+)`(?: \(([\w, ]+)\))?", cell)
    return {label: set(values.split(", ")) if values else set() for label, values in found}


def test_the_table_of_metrics_has_each_with_its_type_and_labels() -> None:
    expected = {}
    for family in metrics().registry.collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels: dict[str, set[str]] = {}
        for sample in family.samples:
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).update({value} - _OPEN_VALUES)
        labels.pop("le", None)
        expected[f"`{name}`"] = (family.type, labels)

    assert {
        row["metric"]: (row["type"], _labels(row["labels"])) for row in rows("docs/metrics.md")
    } == expected
