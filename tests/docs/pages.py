"""The pages that people read, and what stands in them as code."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token

PROJECT = Path(__file__).parents[2]
PAGES = tuple(
    sorted(
        path.relative_to(PROJECT).as_posix()
        for pattern in ("*.md", "docs/**/*.md", "grafana/*.md", "deploy/**/*.md")
        for path in PROJECT.glob(pattern)
    )
)
_SHELL = ("", "sh", "console")


class Code(NamedTuple):
    """A line of a shell's block, or a piece of code within a sentence."""

    page: str
    text: str
    is_block: bool

    def __str__(self) -> str:
        return f"{self.page}: {self.text}"


def markdown() -> MarkdownIt:
    """Return a reader of what Git hosts read: CommonMark with tables."""
    return MarkdownIt("commonmark").enable("table")


def read(page: str) -> str:
    return (PROJECT / page).read_text(encoding="utf-8")


def fences(page: str, language: str) -> list[str]:
    """Return the blocks of a page that name this language."""
    return [
        token.content
        for token in markdown().parse(read(page))
        if token.type == "fence" and token.info == language
    ]


@cache
def code(page: str) -> list[Code]:
    """Return each line of each shell's block, and each piece of code in sentences and tables."""
    found = []
    for token in _tokens(markdown().parse(read(page))):
        if token.type == "code_inline":
            found.append(Code(page, token.content, is_block=False))
        elif token.type == "code_block" or (token.type == "fence" and token.info in _SHELL):
            lines = token.content.replace("\\\n", " ").splitlines()
            found += [Code(page, line.strip(), is_block=True) for line in lines]
    return found


def all_code() -> Iterator[Code]:
    """Yield the code of all pages."""
    for page in PAGES:
        yield from code(page)


def rows(page: str) -> Iterator[dict[str, str]]:
    """Yield each row of each table, by the names of the columns, as it is written."""
    headings: list[str] = []
    for line in read(page).splitlines():
        if not line.startswith("|"):
            headings = []
            continue
        cells = [
            cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]
        ]
        if not headings:
            headings = cells
        elif set(line) - set("|-: "):
            yield dict(zip(headings, cells, strict=True))


def _tokens(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from _tokens(token.children or [])
