"""The output that takes everything and keeps nothing: for measuring, and for trying a configuration."""

from agent.outputs.base import Kind, Output, Verdict

_TAKEN = Verdict(Kind.DELIVERED)


class NullSink(Output):
    """Delivers every body to nowhere."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "nowhere")

    def send(self, body: memoryview, metrics: int) -> Verdict:
        return _TAKEN
