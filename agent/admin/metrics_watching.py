"""The part of ``/metrics`` that tells of each socket, of the threads, and of who looks on."""

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from agent.accounts import ListenerAccount
from agent.admin.status import OutputState, Watched
from agent.sessions import Sessions


def sockets(listeners: Iterable[ListenerAccount]) -> Iterator[Metric]:
    """Each datagram socket by itself: one lane may be behind while the others are not."""
    labels = ("listener", "lane")
    queue = GaugeMetricFamily(
        "penstock_socket_queue_bytes", "What the kernel holds in the socket's receive buffer.", labels=labels
    )
    buffer = GaugeMetricFamily(
        "penstock_socket_receive_buffer_bytes", "How much it can hold; 0 once it is closed.", labels=labels
    )
    drops = CounterMetricFamily(
        "penstock_socket_kernel_dropped_datagrams", "Dropped by the kernel: it was full.", labels=labels
    )
    for listener in listeners:
        for one in listener.sockets_by_lane:
            values = (listener.name, str(one.lane) if one.lane >= 0 else "feed")
            queue.add_metric(values, one.queue_bytes)
            buffer.add_metric(values, one.receive_buffer_bytes)
            drops.add_metric(values, one.kernel_drops)
    yield from (queue, buffer, drops)


def limits(states: Iterable[OutputState]) -> Iterator[Metric]:
    """What the configuration allows."""
    spool = GaugeMetricFamily(
        "penstock_spool_limit_bytes", "What the spool may take of the disk.", labels=("output",)
    )
    for state in states:
        if state.spool_max_bytes:
            spool.add_metric((state.name,), state.spool_max_bytes)
    yield spool


def watching(watched: Watched, sessions: Sessions) -> Iterator[Metric]:
    """What was seen by looking once a second, and what looking costs."""
    threads = CounterMetricFamily(
        "penstock_thread_cpu_seconds",
        "Processor time by thread, those that ended included.",
        labels=("thread",),
    )
    for name, cpu_ns in watched.threads.items():
        threads.add_metric((name,), cpu_ns / 1e9)
    yield threads
    broken = "1 while the ledger does not balance though nothing moves."
    yield GaugeMetricFamily("penstock_ledger_broken", broken, float(watched.broken_since is not None))
    yield GaugeMetricFamily("penstock_page_clients", "Streams of figures that are open.", watched.clients)
    yield GaugeMetricFamily("penstock_tap_clients", "Taps that look at what passes.", sessions.taps)
    skipped = "Metrics that passed a tap which had no time for them."
    yield CounterMetricFamily("penstock_tap_skipped_metrics", skipped, sessions.skipped)
    missed = "Datagrams that a capture had no room for; they were received all the same."
    yield CounterMetricFamily("penstock_capture_missed_datagrams", missed, sessions.capture_missed)
