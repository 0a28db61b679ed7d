"""Where batches go: one module for each type of destination, all with the interface of ``base.Output``."""

from agent.config import (
    Destination,
    FileOutput,
    InfluxOutput,
    KafkaOutput,
    NatsOutput,
    NullOutput,
    RemoteWriteOutput,
)
from agent.errors import OutputError
from agent.outputs.base import Output


def make(config: Destination, agent: str = "") -> Output:
    """The output that *config* describes, ready to send; nothing has been sent yet.

    *agent* is by what name relays know us.

    Raises OutputError if it can be told already that it would not work: a certificate or a folder that
    cannot be used. Modules are imported when the first output of their type is made.
    """
    if isinstance(config, InfluxOutput):
        from agent.outputs.influxdb import InfluxSink

        return InfluxSink(config)
    if isinstance(config, RemoteWriteOutput):
        from agent.outputs.remote_write import RemoteWriteSink

        return RemoteWriteSink(config)
    if isinstance(config, NatsOutput):
        from agent.outputs.nats import NatsSink

        return NatsSink(config, agent)
    if isinstance(config, KafkaOutput):
        from agent.outputs.kafka import KafkaSink

        return KafkaSink(config, agent)
    if isinstance(config, FileOutput):
        from agent.outputs.file import FileSink

        return FileSink(config)
    if isinstance(config, NullOutput):
        from agent.outputs.null import NullSink

        return NullSink(config.name)
    raise OutputError(f"nothing sends to an output of this type: {type(config).__name__}")
