"""The table of powers of ten is the one that its program makes."""

from fractions import Fraction
from pathlib import Path

from packages.power_table import FIRST, LAST, power, text

HEADER = Path(__file__).resolve().parents[2] / "ext" / "num_powers.h"


def test_the_header_is_what_the_program_prints() -> None:
    assert HEADER.read_text() == text() + "\n"


def test_each_power_has_128_bits_and_is_rounded_up() -> None:
    for exponent in range(FIRST, LAST + 1):
        value, exact = power(exponent), Fraction(10) ** exponent
        assert value.bit_length() == 128
        scaled = exact * Fraction(2) ** (127 - floor_log2(exact))
        assert value - 1 < scaled <= value


def floor_log2(number: Fraction) -> int:
    guess = number.numerator.bit_length() - number.denominator.bit_length()
    return guess if Fraction(2) ** guess <= number else guess - 1
