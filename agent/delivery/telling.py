"""What the log tells of a batch: what was refused of it, that it is sent in parts, and how it fared."""

import logging

from agent.delivery.work import Tally, Work
from agent.outputs.base import Payload, Verdict

logger = logging.getLogger(__name__)

SAMPLE_BYTES = 256
"""So much of a rejected line is logged."""


def rejected(output: str, work: Work, verdict: Verdict, lines: int, metrics: int) -> None:
    """The server refused *lines* of a body of *metrics* for good."""
    extra = {
        "output": output,
        "batch": work.trace.id,
        "status": verdict.status,
        "reason": verdict.text,
        "rejected": lines,
        "metrics": metrics,
    }
    if work.tally.lines:
        line, extra["line_reason"] = work.tally.lines[-1]
        extra["line"] = line[:SAMPLE_BYTES].decode("ascii", "backslashreplace")
    logger.error("metrics were rejected for good", extra=extra)


def split(output: str, work: Work, verdict: Verdict, payload: Payload) -> None:
    """The server did not take *payload* in one piece."""
    extra = {
        "output": output,
        "batch": work.trace.id,
        "status": verdict.status,
        "reason": verdict.text,
        "metrics": payload.metrics,
        "bytes": payload.raw_bytes,
    }
    if verdict.status == 413:
        logger.warning("a body is too large for the server and is halved", extra=extra)
    else:
        logger.warning("a body was refused as a whole and is sent in parts to find why", extra=extra)


def traced(output: str, work: Work, spooled: int, dropped: int) -> None:
    """*work* is done with, of which so many metrics were *spooled* and *dropped*: log what its trace has."""
    if not logger.isEnabledFor(logging.INFO):
        return
    trace = work.trace
    extra = {"output": output, "batch": trace.id, "metrics": work.metrics}
    extra["outcome"] = _outcome(work.tally, spooled, dropped)
    extra |= trace.fields()
    if trace.failed:
        logger.info("a batch failed on its way", extra=extra)
    else:
        logger.info("a batch was traced", extra=extra)


def _outcome(tally: Tally, spooled: int, dropped: int) -> str:
    """What became of a batch in one word; ``mixed`` if that is not one thing."""
    parts = {
        "delivered": tally.delivered + tally.merged,
        "rejected": tally.rejected,
        "spooled": spooled,
        "dropped": dropped,
    }
    words = [word for word, metrics in parts.items() if metrics]
    return words[0] if len(words) == 1 else "mixed" if words else "delivered"
