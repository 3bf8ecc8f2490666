# ruff: noqa: INP001 -- MkDocs loads it by its path
"""The documentation site's files: MkDocs' hook, named in mkdocs.yml.

MkDocs wants all pages in one directory. Here they are where readers on a Git host look for them,
and link to each other by their paths in the repository. So the site uses the same paths: one link
works in both places, and MkDocs checks all of them.
"""

from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_ROOT: Final = Path(__file__).parents[1]
_LINKED_FILES: Final = ("LICENSE",)


def on_config(config: MkDocsConfig) -> None:
    """Replace each pattern in the navigation by the files that match it."""
    config.nav = _expanded(config.nav)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the files of docs/ and of the navigation, by their paths in the repository."""
    docs = Path(config.docs_dir).relative_to(_ROOT)
    own = [file for file in files if file.src_dir == config.docs_dir]
    theme = [file for file in files if file.src_dir != config.docs_dir]
    paths = {(docs / file.src_uri).as_posix() for file in own}
    paths.update(_leaves(config.nav), _LINKED_FILES)
    return Files([*theme, *(_file(path, config) for path in sorted(paths))])


def _file(path: str, config: MkDocsConfig) -> File:
    return File(path, str(_ROOT), config.site_dir, config.use_directory_urls)


def _expanded(nav: Any) -> Any:
    if isinstance(nav, dict):
        return {title: _expanded(value) for title, value in nav.items()}
    if isinstance(nav, list):
        return [_expanded(item) for item in nav]
    if "*" in nav:
        return sorted(found.relative_to(_ROOT).as_posix() for found in _ROOT.glob(nav))
    return nav


def _leaves(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    items = nav.values() if isinstance(nav, dict) else nav
    return [leaf for item in items for leaf in _leaves(item)]
