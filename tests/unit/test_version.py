"""The version goes up with the outbox's schema, so that one version has one schema."""

import re

from replicator import __version__
from replicator.outbox.migrations import head, migrations_directory

# The newest migration of each version; a patch release has none of its own. Once a version is
# released its line never changes: a new migration needs a new version, and a new line.
_NEWEST = {"0.1": "0001", "0.2": "0003"}


def test_the_newest_migration_is_that_of_this_version() -> None:
    version = __version__.rpartition(".")[0]
    assert _NEWEST.get(version) == head(), "see docs/releasing.md, 'What a migration means'"
    assert list(_NEWEST)[-1] == version


def test_every_released_version_has_its_line() -> None:
    changelog = (migrations_directory().parent / "CHANGELOG.md").read_text()
    released = re.findall(r"^## \[(\d+\.\d+)\.\d+\] - ", changelog, re.MULTILINE)
    assert released
    assert set(released) <= set(_NEWEST)


def test_migrations_are_numbered_one_by_one() -> None:
    names = sorted(file.name for file in migrations_directory().glob("versions/[0-9]*.py"))
    assert [name[:4] for name in names] == [f"{n + 1:04}" for n in range(len(names))]
