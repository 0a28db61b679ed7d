"""Durations and sizes: each text is read exactly, each value survives being shown, nothing else is taken.
Tags: what the configuration takes, the compiled core takes too."""

import re
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from agent import _core
from agent.config_kinds import Tags
from agent.config_values import format_duration, format_size, parse_duration, parse_size

SECONDS = {
    "d": Fraction(86400),
    "h": Fraction(3600),
    "m": Fraction(60),
    "s": Fraction(1),
    "ms": Fraction(1, 10**3),
    "us": Fraction(1, 10**6),
    "ns": Fraction(1, 10**9),
}
BYTES = {"B": 1} | {
    f"{letter}{infix}B": base**power
    for infix, base in (("", 1000), ("i", 1024))
    for power, letter in enumerate("KMGT", 1)
}

digits = st.text("0123456789", min_size=1, max_size=18)
fractions = st.text("0123456789", min_size=1, max_size=30)
numbers = st.one_of(digits, st.builds("{}.{}".format, digits, fractions))


def _exact(number: str) -> Fraction:
    """The value of a decimal number by its definition: all digits over a power of ten."""
    whole, _, part = number.partition(".")
    return Fraction(int(whole + part), 10 ** len(part))


@given(
    st.sets(st.sampled_from(sorted(SECONDS)), min_size=1).flatmap(
        lambda units: st.tuples(*(st.tuples(numbers, st.just(unit)) for unit in SECONDS if unit in units))
    )
)
def test_a_duration_is_the_float_nearest_to_the_sum_of_its_parts(parts: tuple[tuple[str, str], ...]) -> None:
    text = "".join(number + unit for number, unit in parts)
    exact = sum((_exact(number) * SECONDS[unit] for number, unit in parts), Fraction(0))
    assert parse_duration(text) == exact.numerator / exact.denominator


@given(st.one_of(st.floats(min_value=1e-9, max_value=1e15), st.floats(1e-9, 1e-6), st.just(0.0)))
def test_a_duration_survives_being_shown(seconds: float) -> None:
    text = format_duration(seconds)
    assert parse_duration(text) == seconds
    assert re.fullmatch(r"[0-9.]+(ns|us|ms|s|m|h|d)", text)


@given(st.integers(0, 10**12), st.sampled_from(["ns", "us", "ms", "s", "m", "h"]))
def test_a_whole_number_of_a_unit_is_shown_as_a_whole_number(count: int, unit: str) -> None:
    assert re.fullmatch(r"[0-9]+(ns|us|ms|s|m|h|d)", format_duration(parse_duration(f"{count}{unit}")))


@given(numbers, st.sampled_from(["", " "]), st.sampled_from(sorted(BYTES)))
def test_a_size_is_exact_or_refused(number: str, space: str, unit: str) -> None:
    exact = _exact(number) * BYTES[unit]
    text = f"{number}{space}{unit}"
    if exact.denominator == 1:
        assert parse_size(text) == exact
    else:
        try:
            parse_size(text)
        except ValueError as error:
            assert str(error) == "not a whole number of bytes"
        else:
            raise AssertionError(f"{text} was taken")


@given(st.integers(0, 10**18 - 1))
def test_a_size_survives_being_shown(size: int) -> None:
    assert parse_size(format_size(size)) == size


NUMBER = r"[0-9]{1,18}(\.[0-9]{1,30})?"
UNITS = "".join(rf"({NUMBER}{unit})?" for unit in SECONDS)
near = st.text(st.sampled_from("0123456789.+-e_ dhmsunµBKMGTi\u0399\u0661\n"), max_size=12)


@given(st.one_of(st.text(), near))
def test_no_other_text_is_a_duration(text: str) -> None:
    try:
        parse_duration(text)
        taken = True
    except ValueError:
        taken = False
    assert taken == (text != "" and re.fullmatch(UNITS, text) is not None)


@given(st.one_of(st.text(), near))
def test_no_other_text_is_a_size(text: str) -> None:
    try:
        parse_size(text)
    except ValueError:
        return
    assert re.fullmatch(rf"{NUMBER} ?({'|'.join(BYTES)})", text)


@given(st.one_of(st.text("\\,= ab", min_size=1, max_size=4), st.text(max_size=6)))
def test_tags_that_are_taken_can_be_written(text: str) -> None:
    for tags in ({text: "x"}, {"x": text}):
        try:
            [(name, value)] = Tags().read(tags).items()
        except ValueError:
            continue
        pairs = [(name.encode(), value.encode())]
        assert _core.read_lines(b"m v=1 1", tags=pairs)["accepted"] == 1
