"""Merging and references: a configuration may be cut into files anywhere, and any text can be written."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from agent.config import Config, load
from agent.config_schema import OUTPUT_TYPES, Agent, Flush, Listen, Log, kinds
from agent.config_source import Source, fill, read_tree
from agent.errors import ConfigError

Tree = dict[str, Any]


def to_toml(value: Any) -> str:
    """*value* as TOML on one line. JSON's strings are TOML's, but for DEL, which TOML wants escaped."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{to_toml(key)} = {to_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)


def document(tree: Tree) -> str:
    return "".join(f"{to_toml(key)} = {to_toml(value)}\n" for key, value in tree.items())


@contextmanager
def files(*trees: Tree) -> Iterator[Path]:
    """The first tree as the main file, the others in conf.d."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "penstock.toml")
        path.write_text(document(trees[0]))
        (path.parent / "conf.d").mkdir()
        for index, tree in enumerate(trees[1:]):
            (path.parent / "conf.d" / f"{index:03}.toml").write_text(document(tree))
        yield path


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
keys = st.one_of(st.text('ab.[]"$ é', min_size=0, max_size=4), st.sampled_from(["tags", "flush", "x"]))
scalars = st.one_of(
    texts, st.integers(-(2**63), 2**63 - 1), st.booleans(), st.floats(allow_nan=False, allow_infinity=False)
)
tables = st.recursive(
    st.dictionaries(keys, scalars, max_size=4),
    lambda inner: st.dictionaries(
        keys, st.one_of(scalars, inner, st.lists(inner, min_size=1, max_size=3)), max_size=4
    ),
    max_leaves=12,
)


def escaped(value: Any) -> Any:
    """*value* with its dollar signs written so that they stay what they are."""
    if isinstance(value, dict):
        return {key: escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [escaped(item) for item in value]
    return value.replace("$", "$$") if isinstance(value, str) else value


def cut(tree: Tree, data: st.DataObject, count: int) -> list[Tree]:
    """*tree* cut into *count* trees: a value falls into one, tables and arrays may be shared out."""
    parts: list[Tree] = [{} for _ in range(count)]
    for key, value in tree.items():
        if isinstance(value, dict) and data.draw(st.booleans()):
            for part, piece in zip(parts, cut(value, data, count), strict=True):
                # The first keeps a table that is empty throughout.
                if piece or part is parts[0]:
                    part[key] = piece
        elif isinstance(value, list) and data.draw(st.booleans()):
            ends = sorted(data.draw(st.integers(0, len(value))) for _ in range(count - 1))
            for part, start, end in zip(parts, [0, *ends], [*ends, len(value)], strict=True):
                if end > start:
                    part[key] = value[start:end]
        else:
            data.draw(st.sampled_from(parts))[key] = value
    return parts


@given(tables, st.integers(1, 4), st.data())
def test_files_together_hold_what_one_file_would(tree: Tree, count: int, data: st.DataObject) -> None:
    with files(*cut(escaped(tree), data, count)) as path:
        source = read_tree(path)
    assert source.problems == []
    assert source.tree == tree


@given(tables, st.data())
def test_every_key_that_two_files_set_is_told(tree: Tree, data: st.DataObject) -> None:
    first, second = Path("a.toml"), Path("b.toml")
    source = Source()
    source.merge(tree, first)
    before = len(source.problems)
    source.merge(tree, second)

    def doubled(table: Tree) -> int:
        found = 0
        for value in table.values():
            if isinstance(value, dict):
                found += doubled(value)
            elif not isinstance(value, list):
                found += 1
        return found

    assert before == 0
    assert len(source.problems) == doubled(tree)
    assert all("in a.toml and in b.toml" in problem.message for problem in source.problems)


@given(st.text())
def test_any_text_can_be_written(text: str) -> None:
    assert fill(text.replace("$", "$$")) == text


variables = st.from_regex(r"PENSTOCK_TEST_[A-Z]{1,3}", fullmatch=True)
values = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(st.dictionaries(variables, values, min_size=1), st.data())
def test_references_are_replaced_once_and_in_place(environment: dict[str, str], data: st.DataObject) -> None:
    references = st.tuples(st.just(True), st.sampled_from(sorted(environment)))
    pieces = data.draw(st.lists(st.one_of(references, st.tuples(st.just(False), st.text()))))
    written = "".join(f"${{{text}}}" if refers else text.replace("$", "$$") for refers, text in pieces)
    with patch.dict("os.environ", environment):
        assert fill(written) == "".join(environment[text] if refers else text for refers, text in pieces)


@given(st.text(st.sampled_from("${}:/aA_ \n"), max_size=16))
def test_whatever_is_no_reference_is_refused_with_words(text: str) -> None:
    try:
        fill(text)
    except ValueError as error:
        assert str(error)
        assert "$" in text


STRUCTS = (Agent, Log, Flush, Listen, *OUTPUT_TYPES.values())
PLAUSIBLE = (
    *("udp://h:1", "unixgram:///a", "http://h", "https://h/", "influxdb", "file", "null"),
    *("line", "1s", "1MiB", "auto", "$", "${", "${HOME}", "a\nb", "a\u2028b"),
)
known = st.sampled_from(sorted({key for struct in STRUCTS for key in kinds(struct)}))
words = st.one_of(texts, st.sampled_from(PLAUSIBLE))
loose = st.one_of(words, scalars, st.lists(words, max_size=2), st.dictionaries(keys, words, max_size=2))
sections = st.dictionaries(st.one_of(known, st.just("type"), keys), loose, max_size=8)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "agent": st.one_of(sections, loose),
            "log": st.one_of(sections, loose),
            "flush": st.one_of(sections, loose),
            "listen": st.one_of(st.lists(st.one_of(sections, loose), max_size=3), sections, loose),
            "output": st.one_of(st.lists(st.one_of(sections, loose), max_size=3), sections, loose),
            "other": loose,
        },
    )
)
def test_any_tree_is_a_configuration_or_a_list_of_problems(tree: Tree) -> None:
    with files(tree) as path:
        try:
            assert isinstance(load(path), Config)
        except ConfigError as error:
            assert error.problems
            # Nothing that a file holds can break a message into lines of its own.
            assert len(str(error).splitlines()) == len(error.problems)
