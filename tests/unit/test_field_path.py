"""Paths to fields, as settings write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.domain.field_path import MAX_NAMES, FieldPath, parse_path, tree_of, write_path

NAMES = st.text(min_size=1).filter(lambda name: name != "$reql_type$")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("card", ("card",)),
        ("card.number", ("card", "number")),
        (r"card\.number", ("card.number",)),
        (r"card\\.number", ("card\\", "number")),
        (r"card\\\.number", ("card\\.number",)),
        (" .é", (" ", "é")),
    ],
)
def test_a_dot_goes_into_an_object_unless_it_is_escaped(text: str, path: FieldPath) -> None:
    assert parse_path(text) == path


@given(st.lists(NAMES, min_size=1, max_size=MAX_NAMES).map(tuple))
def test_a_path_survives_writing_and_reading(path: FieldPath) -> None:
    assert parse_path(write_path(path)) == path


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b"])
def test_an_empty_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="has an empty name"):
        parse_path(text)


@pytest.mark.parametrize("text", ["a\\", "a\\b", "\\", "a\\\\\\", "\\]"])
def test_another_escape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="comes one of"):
        parse_path(text)


@pytest.mark.parametrize("text", ["*", "card.*", "card[0].number", "card[].number", "c*"])
def test_a_wildcard_is_refused_unless_it_is_escaped(text: str) -> None:
    with pytest.raises(ValueError, match="there are no wildcards"):
        parse_path(text)
    assert parse_path(text.replace("*", "\\*").replace("[", "\\[")) == tuple(text.split("."))


def test_what_rethinkdb_cannot_take_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 16 names"):
        parse_path(".".join("a" * 17))
    with pytest.raises(ValueError, match="marks a time, binary or geometry"):
        parse_path("at.$reql_type$")


def test_paths_are_gathered_by_their_first_names() -> None:
    assert tree_of([("a", "b"), ("c",), ("a", "d", "e"), ("c",)]) == {
        "a": {"b": {}, "d": {"e": {}}},
        "c": {},
    }
    assert tree_of([]) == {}


@pytest.mark.parametrize(
    "paths", [[("a", "b"), ("a", "b", "c.d")], [("a", "b", "c.d"), ("a", "b")]]
)
def test_a_path_into_a_field_that_is_named_too_is_refused(paths: list[FieldPath]) -> None:
    with pytest.raises(ValueError, match="is part of"):
        tree_of(paths)
