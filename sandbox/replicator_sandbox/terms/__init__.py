"""ReQL: the terms that the sandbox knows; importing this package registers them all."""

from replicator_sandbox.terms import (
    determinism,
    feeds,
    logic,
    objects,
    sequences,
    tables,
    values,
    writes,
)

__all__ = [
    "determinism",
    "feeds",
    "logic",
    "objects",
    "sequences",
    "tables",
    "values",
    "writes",
]
