"""What `/metrics` shows: every sample of the program, with the labels that it can have."""

from replicator.metrics import Metrics


def metrics() -> Metrics:
    """Return the program's metrics, with one table."""
    made = Metrics()
    made.register_table("a.b")
    return made


def samples() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for family in metrics().registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found
