"""The output that takes everything and keeps nothing: for measuring, and for trying a configuration."""

import math

from agent.outputs.base import Kind, Output, Payload, Verdict

_TAKEN = Verdict(Kind.DELIVERED)


class NullSink(Output):
    """Delivers every body to nowhere."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "nowhere")

    def post(self, payload: Payload, deadline: float = math.inf) -> Verdict:
        return _TAKEN
