"""The readers that have to agree: the reference, and the compiled core with each of its kernels."""

from collections.abc import Callable
from typing import Any

from tests.conftest import missing
from tests.reference.line_protocol import ReadResult, read

Reader = Callable[..., ReadResult]

NAMES = ("reference", "scalar", "avx2")


def reader(name: str) -> Reader:
    """The reader of that name, with the parameters of :func:`read`; skips the test where it is missing."""
    if name == "reference":
        return read
    try:
        from agent import _core
    except ImportError as error:
        missing(f"needs the compiled core: {error}")
    if name == "avx2" and _core.ISA != "avx2":
        missing("no AVX2")

    def compiled(data: bytes, *, unsigned: bool = True, **options: Any) -> ReadResult:
        options["encoding"] = "lp" if unsigned else "lp_signed"
        result = _core.read_lines(data, isa=name, **options)
        return ReadResult(
            result["body"],
            result["received"],
            result["accepted"],
            result["rewritten"],
            result["clamped"],
            {reason: count for reason, count in result["dropped"].items() if count},
        )

    return compiled
