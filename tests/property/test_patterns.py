"""Compiled patterns match what ``re`` and ``fnmatch`` match, with the same captures, in linear time."""

import fnmatch
import re

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from agent._core import Pattern
from agent.patterns import CAPTURES_MAX, compile_glob, compile_globs, compile_regex

ALPHABET = "aab.-_1é\u0100😀\n"
ATOMS = st.sampled_from(
    [
        *("a", "b", "ab", "\\.", ".", "-", "1", "é", "Ā", "😀"),
        *(
            "[ab]",
            "[^a]",
            "[a-c]",
            "[^.]",
            "[é-ÿ]",
            "[^é]",
            "[Ā-😀]",
            "[^Ā]",
            "[]a]",
            "[^]a]",
            "[a-]",
            "[\\w.]",
            "[\\n\\-]",
        ),
        *("\\d", "\\w", "\\s", "\\D", "\\W", "\\S", "\\x61", "\\u0100", "\\n", "^", "$", "{", "a{,", "x{}"),
    ]
)
COUNTS = st.sampled_from(
    ["*", "+", "?", "{2}", "{0}", "{1,3}", "{,2}", "{2,}", "{,}", "*?", "+?", "??", "{1,2}?", "{0,}?"]
)


def _grow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        inner.map("({})".format),
        inner.map("(?:{})".format),
        st.tuples(inner, COUNTS).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
        st.tuples(inner, COUNTS).map(lambda pair: f"({pair[0]}){pair[1]}"),
        st.lists(inner, min_size=2, max_size=3).map("".join),
        st.lists(st.one_of(inner, st.just("")), min_size=2, max_size=3).map(
            lambda all_: f"(?:{'|'.join(all_)})"
        ),
    )


PATTERNS = st.recursive(st.one_of(ATOMS, st.tuples(ATOMS, COUNTS).map("".join)), _grow, max_leaves=8)
TEXTS = st.one_of(
    st.text(alphabet=ALPHABET, max_size=10).map(str.encode),
    st.lists(
        st.sampled_from([b"a", b"b", b".", b"\xc3", b"\xa9", b"\xe2\x82", b"\xff", b"\xed\xa0\x80"]),
        max_size=6,
    ).map(b"".join),
)


def spans(found: re.Match[str] | None) -> tuple[tuple[int, int] | None, ...] | None:
    """Captures of *found* in bytes of its text."""
    if found is None:
        return None

    def place(at: int) -> int:
        return len(found.string[:at].encode("utf-8", "surrogateescape"))

    return tuple(
        None if found.span(k) == (-1, -1) else (place(found.start(k)), place(found.end(k)))
        for k in range(1, found.re.groups + 1)
    )


def compiled(pattern: str) -> Pattern:
    try:
        return compile_regex(pattern)
    except ValueError as error:
        # What is refused is refused by `re` too, or is empty and repeated, and nothing else.
        if "repeats what may be empty" not in str(error):
            with pytest.raises(re.error):
                re.compile(pattern, re.ASCII)
        assume(False)
        raise


@settings(max_examples=600)
@given(PATTERNS, TEXTS)
@example("(a|ab)(c|bcd)(d*)", b"abcd")
@example("(?:(a)|b)*", b"ab")
@example("(a+|b+)*?", b"aabb")
@example("(.*)\\.(.*)", b"a.b.c")
@example("(.*?)\\.(.*)", b"a.b.c")
@example("(a*)?", b"")
@example("(a|)", b"")
@example("a$", b"a\n")
@example("a$\n", b"a\n")
@example(".", b"\xff")
@example("[^a]+", b"\xe2\x82\xe2\x82\xac")
def test_regexes_match_as_those_of_python(pattern: str, text: bytes) -> None:
    program = compiled(pattern)
    wanted = re.compile(pattern, re.ASCII).fullmatch(text.decode("utf-8", "surrogateescape"))
    found, _, given_up = program.match(text)
    assert not given_up
    assert found == spans(wanted)


GLOBS = st.lists(
    st.sampled_from(
        [
            "a",
            "b",
            ".",
            "*",
            "?",
            "[ab]",
            "[!a]",
            "[a-c]",
            "[]]",
            "[!]a]",
            "[-a]",
            "[é]",
            "é",
            "]",
            "\\",
            "{",
            "(",
            "^",
            "$",
        ]
    ),
    max_size=8,
).map("".join)


@settings(max_examples=400)
@given(GLOBS, TEXTS)
@example("*", b"\n")
@example("a*", b"a")
def test_globs_match_as_those_of_fnmatch(glob: str, text: bytes) -> None:
    try:
        program = compile_glob(glob)
    except ValueError:
        # Two sets that run into each other.
        assume(False)
        raise
    wanted = re.compile(fnmatch.translate(glob)).match(text.decode("utf-8", "surrogateescape"))
    assert (program.match(text)[0] is not None) == (wanted is not None)


@settings(max_examples=400)
@given(
    st.lists(st.sampled_from(["a", "b", ".", "*", "?", "ab", "é", "[ab]", "[!b]"]), max_size=8).map("".join),
    TEXTS,
)
def test_globs_of_nodes_capture_and_stop_at_dots(glob: str, text: bytes) -> None:
    same = {"*": "([^.]*)", "?": "[^.]", "[ab]": "[ab]", "[!b]": "[^b.]"}
    parts = re.findall(r"\[[^]]*\]|.", glob)
    wanted = re.compile("".join(same.get(part, re.escape(part)) for part in parts))
    found = compile_glob(glob, nodes=True).match(text)[0]
    assert found == spans(wanted.fullmatch(text.decode("utf-8", "surrogateescape")))


@given(PATTERNS, st.integers(0, 200))
@example("(?:a?){20}", 20)
@example("(?:(?:a|a)|(?:a|a)+)+b", 100)
@example("(?:.*a){12}", 100)
def test_time_is_linear_in_the_text(pattern: str, length: int) -> None:
    program = compiled(pattern)
    size = len(program_steps(pattern))
    _, steps, given_up = program.match(b"a" * length, 1 << 40)
    assert not given_up
    assert steps <= 2 * size * (length + 1)


def program_steps(pattern: str) -> bytes:
    """One byte for each step of *pattern*: what it would have to be bounded by."""
    made: list[bytes] = []

    def make(steps: bytes, classes: bytes, captures: int, literal: bytes, kind: int) -> Pattern:
        made.append(steps[::8])
        return Pattern(steps, classes, captures, literal, kind)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agent.patterns.Pattern", make)
        compile_regex(pattern)
    return made[0]


def test_a_pattern_that_takes_too_long_is_given_up() -> None:
    program = compile_regex("(?:.*a){20}b")
    assert program.match(b"a" * 60000) == (None, program.match(b"a" * 60000)[1], True)
    assert program.match(b"a" * 60000)[1] <= 200_000


@pytest.mark.parametrize(
    ("pattern", "literal", "whole"),
    [
        ("cpu", b"cpu", True),
        ("cpu\\.a", b"cpu.a", True),
        ("cpu(a)b.", b"cpuab", False),
        ("cpu|mem", b"", False),
        ("(?:é)x*", "é".encode(), False),
        ("a?b", b"", False),
    ],
)
def test_what_a_pattern_begins_with_is_known(pattern: str, literal: bytes, whole: bool) -> None:
    program = compile_regex(pattern)
    assert (program.literal, program.is_literal) == (literal, whole)


@pytest.mark.parametrize("glob", ["cpu", "cpu*", "*", ""])
def test_plain_globs_run_no_program(glob: str) -> None:
    assert compile_glob(glob).match(b"cpu_total")[1] == 0


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "is no regular expression: missing )"),
        ("[[a]", "is no regular expression: Possible nested set"),
        ("(a)\\1", 'has "\\1": a reference back to a group is not supported'),
        ("a(?=b)", 'has "(?=b"'),
        ("(?P<x>a)", 'has "(?P<": only plain groups and (?:…) are supported'),
        ("(?i)a", "only plain groups"),
        ("a\\b", 'has "\\b", which is not supported'),
        ("a\\Z", 'has "\\Z", which is not supported'),
        ("a*+", 'has a "+" behind a repetition'),
        ("(a*)*", "repeats what may be empty"),
        ("(?:a|b?){2,3}", "repeats what may be empty"),
        ("(?:^)*", "repeats what may be empty"),
        ("a{1001}", "has {1001}; at most 1000 are allowed"),
        ("(?:(?:a{100}){100}){100}", "is too large: it takes more than 2048 steps"),
        ("(" * 60 + ")" * 60, "has more than 50 groups in each other"),
        ("(a)" * (CAPTURES_MAX + 1), "has 17 captures; at most 16 are allowed"),
    ],
)
def test_what_cannot_be_run_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        compile_regex(pattern)


@pytest.mark.parametrize(
    ("glob", "message"),
    [
        ("a[b", 'has a "[" that is never closed'),
        ("a[]", 'has a "[" that is never closed'),
        ("[b-a]", 'has "b-a", whose end is before its beginning'),
    ],
)
def test_globs_that_cannot_be_read_are_refused(glob: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        compile_glob(glob)


def test_an_exclamation_mark_excludes() -> None:
    globs = compile_globs(["cpu*", "!cpu_debug", "mem"])
    assert [one.literal for one in globs.wanted] == [b"cpu", b"mem"]
    assert [one.literal for one in globs.unwanted] == [b"cpu_debug"]


@given(st.binary(max_size=64), st.integers(0, 20), st.integers(0, 4))
def test_no_program_brings_the_core_down(steps: bytes, captures: int, kind: int) -> None:
    try:
        program = Pattern(steps, b"\xff" * 32, captures, b"", kind)
    except ValueError:
        return
    program.match(b"abc\xff\n", 10_000)
