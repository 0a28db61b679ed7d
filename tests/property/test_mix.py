"""The reference of the fixed hash finds what the header finds: the values that its own test pins."""

import re
from pathlib import Path

from tests.reference.mix import mix_bytes

PINNED = re.findall(
    r'\{"(.*)", UINT64_C\((0x[0-9A-F]{16})\)\}',
    (Path(__file__).parents[1] / "c" / "test_mix.c").read_text(),
)


def test_the_fixed_hash_is_the_pinned_one() -> None:
    assert len(PINNED) == 20
    assert {text: mix_bytes(0, text.encode()) for text, _ in PINNED} == {
        text: int(value, 16) for text, value in PINNED
    }
