"""Prints ``ext/num_powers.h``: the powers of ten that the shortest text of a double is found with.

python packages/power_table.py > ext/num_powers.h
"""

FIRST, LAST = -292, 324
"""Decimal exponents that a double can ask for."""


def power(exponent: int) -> int:
    """10^exponent times the power of two that makes 128 bits of it, rounded up."""
    up, down = 10 ** max(exponent, 0), 10 ** max(-exponent, 0)
    # 2^shift * up / down has 128 bits, or one more; then one less does.
    shift = 128 - up.bit_length() + down.bit_length()
    for bits in (shift, shift - 1):
        value = -((-up << bits) // down) if bits >= 0 else -(-up // (down << -bits))
        if value < 1 << 128:
            return value
    raise AssertionError(exponent)


def text() -> str:
    lines = [
        "/* 10^e for e from NUM_POWER_FIRST to NUM_POWER_LAST, as 128 bits, the highest one set, rounded up:",
        " * upper half, lower half. Made by packages/power_table.py; a test makes it again. */",
        "#ifndef PENSTOCK_NUM_POWERS_H",
        "#define PENSTOCK_NUM_POWERS_H",
        "",
        "#include <stdint.h>",
        "",
        f"#define NUM_POWER_FIRST ({FIRST})",
        f"#define NUM_POWER_LAST {LAST}",
        "",
        "static const uint64_t num_powers[NUM_POWER_LAST - NUM_POWER_FIRST + 1][2] = {",
    ]
    entries = []
    for exponent in range(FIRST, LAST + 1):
        value = power(exponent)
        entries.append(f"{{0x{value >> 64:016X}u, 0x{value & (1 << 64) - 1:016X}u}},")
    lines += ["    " + " ".join(entries[at : at + 2]) for at in range(0, len(entries), 2)]
    return "\n".join([*lines, "};", "", "#endif"])


if __name__ == "__main__":
    print(text())
