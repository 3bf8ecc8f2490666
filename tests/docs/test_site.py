"""The site: built without a complaint, whole in itself, and the same as on a Git host."""

import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.deploy.programs import Done, ask, said
from tests.docs.pages import PAGES, PROJECT, markdown, read

_COMPARED = {*("h1", "h2", "h3", "h4", "ul", "ol", "li", "table", "tr", "pre", "code", "img", "a")}


def _build(site: Path, project: Path = PROJECT) -> Done:
    return ask("mkdocs", "build", "--strict", "--site-dir", site, cwd=project)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as it is built, without a complaint."""
    directory = tmp_path_factory.mktemp("site")
    done = _build(directory)
    assert done.returncode == 0, said(done)
    return directory


def _html(site: Path, page: str) -> str:
    path = Path(page)
    name = "index" if path.name == "README.md" else path.stem
    return (site / path.with_name(f"{name}.html")).read_text(encoding="utf-8")


class _Elements(HTMLParser):
    """What a page is made of: how many of each element."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._is_in_block = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        is_added = dict(attrs).get("class") == "headerlink" or (tag == "code" and self._is_in_block)
        self._is_in_block |= tag == "pre"
        if tag in _COMPARED and not is_added:
            self.counts[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        self._is_in_block &= tag != "pre"


@pytest.mark.parametrize("page", PAGES)
def test_a_page_looks_as_on_a_git_host(site: Path, page: str) -> None:
    """MkDocs wants four spaces in lists, and an empty line before them: CommonMark takes less."""
    article = re.search(r"<article.*?</article>", _html(site, page), re.DOTALL)
    assert article is not None

    assert _Elements(article[0]).counts == _Elements(markdown().render(read(page))).counts


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loads = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*(?:src|href)=["'](?:https?:)?//""")
    imports = re.compile(r"(?:url\(|@import )[\"']?(?:https?:)?//")
    for path in site.rglob("*.html"):
        assert not loads.search(path.read_text(encoding="utf-8")), path
    for path in site.rglob("*.css"):
        assert not imports.search(path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize(
    "broken", ["[a](docs/gone.md)", "[a](docs/glossary.md#gone)", "[a](#gone)", "[a](deploy/)"]
)
def test_a_link_that_leads_nowhere_would_be_seen(tmp_path: Path, broken: str) -> None:
    names = {"mkdocs.yml", "LICENSE", "tools/docs_site.py", *PAGES}
    for name in names | {path.as_posix() for path in _beside()}:
        copy = tmp_path / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PROJECT / name, copy)
    with (tmp_path / "README.md").open("a", encoding="utf-8") as readme:
        readme.write(f"\n{broken}\n")

    done = _build(tmp_path / "site", tmp_path)

    assert done.returncode == 1
    assert broken[4:-1] in said(done)


def _beside() -> list[Path]:
    found = [path for end in ("png", "svg", "css") for path in PROJECT.glob(f"docs/**/*.{end}")]
    return [path.relative_to(PROJECT) for path in found]
