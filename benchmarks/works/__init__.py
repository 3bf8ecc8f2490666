"""All works, in the order in which they run."""

from benchmarks.works import (
    backlog,
    drain,
    growth,
    live,
    properties,
    resources,
    snapshot,
    tables,
    versions,
)

WORKS = {
    work.name: work
    for work in (
        drain.DRAIN,
        drain.SIZES,
        drain.LAZY,
        drain.V2,
        drain.QUORUM,
        live.LIVE,
        snapshot.SNAPSHOT,
        backlog.BACKLOG,
        tables.TABLES,
        resources.RESOURCES,
        growth.GROWTH,
    )
}
# Only if they are named: they need another version to compare with, or ask about the broker alone.
COMPARISONS = {work.name: work for work in (versions.DRAIN, versions.LIVE, properties.PROPERTIES)}
