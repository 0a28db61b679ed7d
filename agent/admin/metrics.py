"""``/metrics``: the ledger and the state of the service in the Prometheus text format.

Counters are named ``penstock_<what>_<unit>_total``. Nothing is counted here: each scrape reads the ledger
once, so that the figures of one scrape belong together.

Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agent import __version__, _core
from agent.accounts import (
    AggregationAccount,
    GuardAccount,
    LaneAccount,
    ListenerAccount,
    OutputAccount,
    RejectedAccount,
    RelayAccount,
    SpoolAccount,
)
from agent.admin.metrics_delivery import delivery
from agent.admin.metrics_fleet import fleet
from agent.admin.metrics_objectives import objectives
from agent.admin.metrics_watching import limits, sockets, watching
from agent.admin.status import OutputState, Provider, ServiceStatus
from agent.ledger import Ledger

# (name, help, value). What is read of each listener, lane and output is a table, so that a name, its
# meaning and its source stand in one line.
_Rows = tuple[tuple[str, str, str], ...]

_LISTENER_COUNTERS: _Rows = (
    ("received_datagrams", "Datagrams read from the listener's sockets.", "datagrams"),
    ("received_bytes", "Bytes read from the listener's sockets.", "bytes"),
    ("received_metrics", "Metrics found in them, malformed ones included.", "received"),
    ("accepted_metrics", "Metrics that at least one output's ring or a table took.", "accepted"),
    ("aggregated_metrics", "Accepted, and kept for the next tick instead of written.", "aggregated"),
    ("shaped_metrics", "Accepted under a measurement or tags that rules have changed.", "shaped"),
    ("overflowed_metrics", "Accepted without what makes too many series: a tag's value.", "overflowed"),
    ("observed_metrics", "Accepted, though over a limit that only observes.", "observed"),
    ("coerced_metrics", "Accepted with a field brought to its type.", "coerced"),
    ("rejected_fields", "Fields that left their line, since they have another type.", "fields_rejected"),
    ("rewritten_metrics", "Accepted after their bytes were brought into the safe subset.", "rewritten"),
    ("clamped_metrics", "Accepted after an unsigned value was cut to the signed range.", "clamped"),
    ("kernel_dropped_datagrams", "Datagrams dropped by the kernel: its buffer was full.", "kernel_drops"),
    ("accepted_connections", "Connections accepted.", "connections_accepted"),
    ("refused_connections", "Connections closed at once: there were too many.", "connections_refused"),
    ("failed_handshakes", "Connections that never got to speak TLS.", "handshakes_failed"),
)
_LISTENER_GAUGES: _Rows = (
    ("listener_sockets", "Sockets of the listener that are open.", "sockets"),
    ("listener_connections", "Connections that are open.", "connections"),
    ("listener_queue_bytes", "What the kernel holds in the receive buffers.", "queue_bytes"),
    ("listener_receive_buffer_bytes", "How much the receive buffers can hold.", "receive_buffer_bytes"),
)
_AGGREGATION_COUNTERS: _Rows = (
    ("aggregation_samples", "Samples that were aggregated.", "samples"),
    ("aggregation_points", "Points made of them at ticks.", "points"),
    ("aggregation_dropped_points", "Points dropped at ticks: every ring was full.", "ring_full"),
    ("aggregation_unrouted_points", "Points that no output wants.", "unrouted"),
    ("aggregation_conflicting_points", "Points none of whose fields has its type.", "conflicts"),
    ("aggregation_expired_series", "Series forgotten after a long silence.", "expired"),
)
_AGGREGATION_GAUGES: _Rows = (
    ("aggregation_series", "Series in the listener's tables.", "series"),
    ("aggregation_memory_bytes", "Memory of the listener's tables.", "bytes"),
)
_RELAY_COUNTERS: _Rows = (
    ("relay_messages", "Messages of a broker that are decided.", "messages"),
    ("relay_bytes", "Bytes of their bodies as they came.", "bytes"),
    ("relay_metrics", "Metrics in those that were passed on.", "metrics"),
    ("relay_carried_metrics", "Of these, the ones that went on unread.", "carried"),
    ("relay_duplicate_messages", "Messages that were known, and not passed on.", "duplicates"),
    ("relay_duplicate_metrics", "Metrics in them.", "duplicate_metrics"),
    ("relay_poisoned_messages", "Messages that nobody can read.", "poisoned"),
    ("relay_expired_messages", "Messages that the broker dropped before they were read.", "expired"),
    ("relay_redelivered_messages", "Messages that the broker had handed out before.", "redelivered"),
)
_RELAY_GAUGES: _Rows = (
    ("relay_in_flight_messages", "Messages that are taken and undecided.", "in_flight"),
    ("relay_in_flight_bytes", "Bytes of their bodies.", "in_flight_bytes"),
    ("relay_paused", "1 while nothing is taken, since too much is undecided.", "paused"),
    ("relay_connected", "1 while the broker can be read.", "connected"),
)
_LANE_COUNTERS: _Rows = (
    ("lane_accepted_metrics", "Metrics accepted by the lane.", "accepted"),
    ("lane_receive_calls", "Receive calls that returned something.", "receives"),
)
_LANE_GAUGES: _Rows = (
    ("lane_running", "1 while the lane's thread runs.", "running"),
    ("lane_paused", "1 while the lane reads from no connection: no ring has room.", "paused"),
)
_OUTPUT_COUNTERS: _Rows = (
    ("output_restored_metrics", "Metrics that an earlier process left, or a command brought.", "restored"),
    ("output_carried_metrics", "Metrics of a broker's messages that went on unread.", "carried"),
    ("output_written_metrics", "Metrics written to the output's rings.", "written"),
    ("output_missed_metrics", "Metrics that others took while this output's ring was full.", "missed"),
    ("output_filtered_metrics", "Lines that a filter or a shard left out of the output.", "filtered"),
    ("output_left_out_fields", "Fields and tags that the output's encoding cannot hold.", "left_out"),
    ("output_delivered_metrics", "Metrics that the destination confirmed.", "delivered"),
    ("output_rejected_metrics", "Metrics that the destination refused for good.", "rejected"),
    ("output_merged_metrics", "Lines that went into others of one series and time.", "merged"),
    ("output_batches", "Batches of the rings that are decided, or safe in the spool.", "batches"),
    ("output_replayed_files", "Files of the spool that are decided.", "replayed"),
    ("output_attempts", "Requests begun.", "attempts"),
    ("output_retries", "Requests begun again after a failure.", "retries"),
    ("output_splits", "Batches cut in two because the destination wanted less at once.", "splits"),
    ("output_raw_bytes", "Bytes of the requests' bodies before compression.", "bytes_raw"),
    ("output_sent_bytes", "Bytes of the requests' bodies as sent.", "bytes_sent"),
    ("output_breaker_openings", "How often the circuit breaker has opened.", "opened"),
)
_OUTPUT_GAUGES: _Rows = (
    ("output_spooled_metrics", "Metrics in the output's spool.", "spooled"),
    ("output_waiting_metrics", "Metrics in the output's rings, batches under way included.", "waiting"),
    ("output_waiting_bytes", "Bytes in the output's rings.", "waiting_bytes"),
    ("output_capacity_bytes", "How much the output's rings can hold.", "capacity_bytes"),
)
_SPOOL_COUNTERS: _Rows = (
    (
        "spool_restored_metrics",
        "Metrics found in the spool at the start, or brought by a command.",
        "restored",
    ),
    ("spool_stored_metrics", "Metrics stored in the spool.", "stored"),
    ("spool_decided_metrics", "Metrics of the spool that were delivered or rejected.", "decided"),
)
_SPOOL_GAUGES: _Rows = (
    ("spool_files", "Files that wait in the spool.", "files"),
    ("spool_bytes", "What they take of the disk.", "bytes"),
    ("spool_foreign_files", "Files in the spool's folder that are not ours, and are left alone.", "foreign"),
)
_REFUSED_COUNTERS: _Rows = (
    ("rejected_unsaved_metrics", "Rejected metrics that no disk would take.", "unsaved"),
    ("rejected_removed_metrics", "Rejected metrics whose files a limit or a command removed.", "removed"),
)
_REFUSED_GAUGES: _Rows = (
    ("rejected_kept_metrics", "Rejected metrics in the output's folder of them.", "metrics"),
    ("rejected_files", "Files of rejected metrics; each has another with its reasons.", "files"),
    ("rejected_bytes", "What they take of the disk.", "bytes"),
)
_GUARD_COUNTERS: _Rows = (
    ("guard_unknown_heads", "Heads that a writer did not know, and asked for.", "unknown"),
    ("guard_decided_heads", "Heads and names that a writer had not kept, and decided.", "decided"),
    ("guard_rules_given_up", "Those for which a rule or a filter took too long.", "given_up"),
    (
        "guard_rejected_unsaved_fields",
        "Fields that left their metrics, and could not be kept.",
        "rejected_unsaved",
    ),
    ("guard_refused_series", "New heads over a limit, as often as writers asked.", "refused"),
    ("guard_observed_series", "The same, where they are only counted.", "observed"),
    ("guard_expired_series", "Series forgotten because they were silent.", "expired"),
    ("guard_unguarded_fields", "First sights of fields whose type cannot be kept.", "fields_unguarded"),
)
_GUARD_GAUGES: _Rows = (
    ("guard_series", "Series that are known.", "series"),
    ("guard_series_limit", "How many there may be.", "series_max"),
    ("guard_overflow_series", "Series made of those beyond the limits.", "overflow_series"),
    ("guard_fields", "Fields whose type is kept.", "fields"),
    ("guard_memory_bytes", "Memory of what is known of series.", "bytes"),
)
_STATE_GAUGES: _Rows = (
    ("output_concurrency_limit", "Requests that may be under way at once, as things are.", "limit"),
    ("output_round_trip_seconds", "Moving average of what a request takes.", "round_trip"),
)


class _ServiceCollector(Collector):
    """Reads the provider at each scrape. Event loop's thread only."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider

    def collect(self) -> Iterable[Metric]:
        # Status first: an output that appears between the two readings has counters, but no state yet.
        status = self._provider.status()
        yield from _service(status, not self._provider.ready())
        yield from _output_states(status.outputs)
        yield from limits(status.outputs)
        yield from _ledger(self._provider.ledger())
        watched = self._provider.watched()
        yield from objectives(watched.objectives)
        yield from watching(watched, self._provider.sessions())
        if (sources := self._provider.sources()) is not None:
            yield from fleet(sources.view(time.time_ns(), rings=False))

    def describe(self) -> Iterable[Metric]:
        """Empty, so that registering does not take a reading."""
        return ()


def exposition(provider: Provider) -> Callable[[str], tuple[bytes, str]]:
    """What renders a scrape for an Accept header: (body, content type). Event loop's thread only."""
    registry = CollectorRegistry()
    registry.register(_ServiceCollector(provider))
    ProcessCollector(registry=registry)

    def render(accept: str) -> tuple[bytes, str]:
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    return render


def _counter(name: str, text: str, labels: tuple[str, ...] = ()) -> CounterMetricFamily:
    return CounterMetricFamily(f"penstock_{name}", text, labels=labels)


def _gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"penstock_{name}", text, labels=labels)


def _service(status: ServiceStatus, ready: bool) -> Iterator[Metric]:
    build = InfoMetricFamily("penstock_build", "What is running.")
    build.add_metric((), {"version": __version__, "python": platform.python_version(), "isa": _core.ISA})
    yield build
    gauge = _gauge("ready", "Whether metrics can be received.")
    gauge.add_metric((), float(ready))
    yield gauge
    reloads = _counter("reloads", "Reloads of the config.", ("result",))
    reloads.add_metric(("applied",), status.reload.applied)
    reloads.add_metric(("refused",), status.reload.refused)
    yield reloads
    last = status.reload.last
    gauge = _gauge("config_last_reload_successful", "Whether the last reload, if any, was put to work.")
    gauge.add_metric((), float(last is None or last.applied))
    yield gauge
    gauge = _gauge("config_last_reload_timestamp_seconds", "When the config was last read, for good or bad.")
    gauge.add_metric((), status.started if last is None else last.time)
    yield gauge
    gauge = _gauge("config_applied_timestamp_seconds", "When the config that runs now was put to work.")
    gauge.add_metric((), status.reload.applied_time)
    yield gauge


def _output_states(states: Iterable[OutputState]) -> Iterator[Metric]:
    gauge = _gauge("output_state", "1 for the state that the output is in.", ("output", "state"))
    breaker = _gauge("output_breaker_state", "1 for the state that its breaker is in.", ("output", "state"))
    for output in states:
        for state in ("ok", "retrying", "holding"):
            gauge.add_metric((output.name, state), float(output.state == state))
        for state in ("closed", "open", "half_open"):
            breaker.add_metric((output.name, state), float(output.breaker == state))
    yield gauge
    yield breaker
    yield from _table(_gauge, _STATE_GAUGES, "output", [(output.name, output) for output in states])


def _ledger(ledger: Ledger) -> Iterator[Metric]:
    yield from _table(_counter, _LISTENER_COUNTERS, "listener", _by_name(ledger.listeners))
    yield from _table(_gauge, _LISTENER_GAUGES, "listener", _by_name(ledger.listeners))
    dropped = _counter("dropped_metrics", "Metrics dropped before a ring, by reason.", ("listener", "reason"))
    for listener in ledger.listeners:
        # All reasons from the start: a rate needs the zero before the first drop.
        for reason in _core.REASONS:
            dropped.add_metric((listener.name, reason), listener.dropped.get(reason, 0))
    yield dropped
    closed = _counter("closed_connections", "Connections closed, by reason.", ("listener", "reason"))
    for listener in ledger.listeners:
        if listener.connections_accepted:
            for reason in _core.CLOSE_NAMES:
                closed.add_metric((listener.name, reason), listener.connections_closed.get(reason, 0))
    yield closed

    requests = _counter("listener_requests", "Requests by the status of the answer.", ("listener", "answer"))
    for listener in ledger.listeners:
        for answer, count in sorted(listener.requests.items()):
            requests.add_metric((listener.name, answer), count)
    yield requests

    yield from sockets(ledger.listeners)

    aggregations = [(one.name, one.aggregation) for one in ledger.listeners if one.aggregation is not None]
    yield from _table(_counter, _AGGREGATION_COUNTERS, "listener", aggregations)
    yield from _table(_gauge, _AGGREGATION_GAUGES, "listener", aggregations)

    relays = [(one.name, one.relay) for one in ledger.listeners if one.relay is not None]
    yield from _table(_counter, _RELAY_COUNTERS, "listener", relays)
    yield from _table(_gauge, _RELAY_GAUGES, "listener", relays)

    lanes = [(str(lane.lane) if lane.lane >= 0 else "feed", lane) for lane in ledger.lanes]
    yield from _table(_counter, _LANE_COUNTERS, "lane", lanes)
    yield from _table(_gauge, _LANE_GAUGES, "lane", lanes)
    cpu = _counter("lane_cpu_seconds", "Processor time of the lane's thread.", ("lane",))
    for name, lane in lanes:
        cpu.add_metric((name,), lane.cpu_ns / 1e9)
    yield cpu

    yield from _table(_counter, _OUTPUT_COUNTERS, "output", _by_name(ledger.outputs))
    yield from _table(_gauge, _OUTPUT_GAUGES, "output", _by_name(ledger.outputs))
    dropped = _counter("output_dropped_metrics", "Metrics given up, by reason.", ("output", "reason"))
    requests = _counter("output_requests", "Requests by the class of their answer.", ("output", "answer"))
    for output in ledger.outputs:
        for reason, count in output.dropped.items():
            dropped.add_metric((output.name, reason), count)
        for answer, count in output.requests.items():
            requests.add_metric((output.name, answer), count)
    yield dropped
    yield requests
    slots = _gauge("output_ring_slots_used", "Bursts in a ring; it has room for 65536.", ("output", "writer"))
    for output in ledger.outputs:
        for ring in output.rings:
            slots.add_metric((output.name, ring.writer), ring.slots_used)
    yield slots
    yield from delivery(ledger.outputs)
    yield from _disks(ledger.outputs)
    if ledger.guards is not None:
        yield from _guards(ledger.guards)


def _guards(guards: GuardAccount) -> Iterator[Metric]:
    """What is known of series. The offenders' names are few and short: this must not explode itself."""
    for name, text, source in _GUARD_COUNTERS:
        counter = _counter(name, text)
        counter.add_metric((), getattr(guards, source))
        yield counter
    for name, text, source in _GUARD_GAUGES:
        gauge = _gauge(name, text)
        gauge.add_metric((), getattr(guards, source))
        yield gauge
    labels = ("measurement", "tag")
    series = _gauge("offender_series", "Known series charged to a tag that makes many.", labels)
    growth = _gauge("offender_new_series_per_minute", "Distinct new heads because of the tag.", labels)
    for one in guards.offenders:
        series.add_metric((one.measurement, one.tag), one.series)
        growth.add_metric((one.measurement, one.tag), one.per_minute)
    yield series
    yield growth


def _disks(outputs: Iterable[OutputAccount]) -> Iterator[Metric]:
    """The spools and the rejected metrics."""
    spools = [(one.name, one.spool) for one in outputs if one.spool is not None]
    yield from _table(_counter, _SPOOL_COUNTERS, "output", spools)
    yield from _table(_gauge, _SPOOL_GAUGES, "output", spools)
    oldest = _gauge(
        "spool_oldest_timestamp_seconds",
        "When the oldest metric in the spool arrived; 0 if none.",
        ("output",),
    )
    for name, spool in spools:
        oldest.add_metric((name,), spool.oldest_ns / 1e9)
    yield oldest
    refused = [(one.name, one.refused) for one in outputs if one.refused is not None]
    yield from _table(_counter, _REFUSED_COUNTERS, "output", refused)
    yield from _table(_gauge, _REFUSED_GAUGES, "output", refused)
    errors = _counter(
        "disk_errors", "Calls that the system refused, by errno.", ("output", "folder", "error")
    )
    failing = _gauge("disk_failing", "1 while the folder cannot be used as it must be.", ("output", "folder"))
    for folder, accounts in (("spool", spools), ("rejected", refused)):
        for name, account in accounts:
            failing.add_metric((name, folder), float(bool(account.failing)))
            for error, count in account.errors.items():
                errors.add_metric((name, folder, error), count)
    yield errors
    yield failing


_Account = (
    ListenerAccount
    | AggregationAccount
    | RelayAccount
    | LaneAccount
    | OutputAccount
    | SpoolAccount
    | RejectedAccount
    | OutputState
)


def _by_name(
    accounts: Iterable[ListenerAccount] | Iterable[OutputAccount],
) -> list[tuple[str, ListenerAccount | OutputAccount]]:
    return [(account.name, account) for account in accounts]


def _table(
    family: Callable[[str, str, tuple[str, ...]], CounterMetricFamily | GaugeMetricFamily],
    rows: _Rows,
    label: str,
    accounts: Sequence[tuple[str, _Account]],
) -> Iterator[Metric]:
    """One family for each row, with one sample for each account."""
    for name, text, field in rows:
        metric = family(name, text, (label,))
        for value, account in accounts:
            metric.add_metric((value,), getattr(account, field))
        yield metric
