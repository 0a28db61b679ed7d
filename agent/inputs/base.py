"""What a listener is that Python reads: an input, and the source by which it hands over what it received.

Native listeners are read by lanes and know nothing of this. An input receives in threads of its own, and
passes on finished messages: thousands of lines at once, never a metric by itself.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from agent._core import Feed, LeftBurst, Receiver, Sources
from agent.config import Listen

if TYPE_CHECKING:
    from agent._core import FeedResult, ListenerStats
    from agent.relay.intake import Relay

LINE_BYTES_MAX = 65_536


class Source:
    """One listener's way into the feed. Any thread may call it, at any time."""

    __slots__ = ("feed", "number", "relay", "sources")

    def __init__(
        self, feed: Feed, number: int, sources: Sources | None = None, relay: "Relay | None" = None
    ) -> None:
        self.feed = feed
        self.number = number
        """Of the listener: see :mod:`agent.door`."""
        self.sources = sources
        """Who may send how much; None is anybody, anything."""
        self.relay = relay
        """What a listener of a broker needs besides; None for others."""

    def read(
        self,
        data: bytes | bytearray | memoryview,
        *,
        format: str = "line",
        precision: str = "ns",
        line_bytes_max: int = LINE_BYTES_MAX,
        errors_max: int = 0,
        whole: bool = False,
        tags: Sequence[tuple[bytes, bytes]] = (),
    ) -> "FeedResult":
        """Put the metrics of one message into the rings; see :meth:`agent._core.Feed.read`."""
        return self.feed.read(
            self.number,
            data,
            format=format,
            precision=precision,
            line_bytes_max=line_bytes_max,
            errors_max=errors_max,
            whole=whole,
            tags=tags,
        )

    def write(
        self,
        points: Iterable[object],
        *,
        precision: str = "ns",
        as_written: bool = True,
        line_bytes_max: int = LINE_BYTES_MAX,
        errors_max: int = 0,
        datagrams: int = 1,
        nbytes: int = 0,
        malformed: Iterable[tuple[str, bytes]] = (),
        burst: Receiver | LeftBurst | None = None,
    ) -> "FeedResult":
        """Put decoded metrics into the rings; see :meth:`agent._core.Feed.write`."""
        return self.feed.write(
            self.number,
            points,
            precision=precision,
            as_written=as_written,
            line_bytes_max=line_bytes_max,
            errors_max=errors_max,
            datagrams=datagrams,
            nbytes=nbytes,
            malformed=malformed,
            burst=burst,
        )

    def has_room(self, nbytes: int, *, everywhere: bool = False) -> bool:
        """Whether some output's ring has room for what so much input is likely to become, or every one's."""
        return self.feed.has_room(nbytes, everywhere=everywhere)


class Input(ABC):
    """One listener that Python reads, as it runs. The methods are for one thread at a time."""

    failure: str = ""
    """Why it has ended though it should run; empty if all is well."""

    @abstractmethod
    def check(self, config: Listen) -> None:
        """Raise ListenError if :meth:`reconfigure` could not follow *config*. Nothing changes."""

    @abstractmethod
    def start(self) -> None:
        """Begin to receive. Raises OSError."""

    @abstractmethod
    def reconfigure(self, config: Listen) -> None:
        """Go by *config* from now on, which was checked. What is under way may end by the former one."""

    @abstractmethod
    def stop(self, drain: float) -> None:
        """Receive nothing more, and end within *drain* seconds. What was accepted stays accepted."""

    def replay(self, left: LeftBurst) -> bool:
        """Read datagrams that an earlier process had in hand; False if it reads none. Any thread."""
        return False

    def receivers(self) -> Sequence[Receiver]:
        """What it receives datagrams by; nothing if it receives none."""
        return ()

    def tell(self, stats: "ListenerStats") -> None:  # noqa: B027
        """Put into its counters what only the input knows: connections, requests."""

    def beats(self) -> Mapping[str, int]:
        """How often each of its threads that must come round by itself has done so, by the thread's name."""
        return {}
