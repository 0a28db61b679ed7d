"""What a single key of the configuration may hold: one class for each kind of value.

A field of a config struct carries one kind in its annotation, such as
``Annotated[float, Duration("1ms", "1h")]``. The kind turns what TOML holds into what the agent works
with (:meth:`Kind.read`), and back into what a person would have written (:meth:`Kind.show`).
A value that does not fit raises :class:`ValueError` whose message says what was found and what is wanted.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from agent.config_values import (
    BROKER_SCHEMES,
    CONTROL,
    LISTEN_ADDRESSES,
    Filled,
    format_duration,
    format_size,
    hint,
    one_of,
    parse_duration,
    parse_host_port,
    parse_listen_address,
    parse_size,
    quote,
)

MASK = "***"
"""What stands in place of a secret wherever a configuration is shown."""


class Kind:
    """What one key may hold. *secret* values are neither quoted in messages nor shown."""

    secret = False
    wanted = "a value"
    """What :meth:`read` takes, in words, for a message."""

    def read(self, value: object) -> Any:
        """The value that the agent works with. Raises ValueError."""
        raise NotImplementedError

    def show(self, value: Any) -> Any:
        """*value* as TOML would hold it."""
        return value


class Flag(Kind):
    """``true`` or ``false``."""

    def read(self, value: object) -> bool:
        if isinstance(value, Filled) and value in ("true", "false"):
            return value == "true"
        if not isinstance(value, bool):
            raise ValueError(f"got {quote(value)}; wanted true or false")
        return value


class Integer(Kind):
    """A whole number from *low* to *high*."""

    def __init__(self, low: int, high: int) -> None:
        self.low = low
        self.high = high

    def read(self, value: object) -> int:
        if isinstance(value, Filled) and re.fullmatch(r"-?[0-9]{1,18}", value):
            number: object = int(value)
        else:
            number = value
        if isinstance(number, bool) or not isinstance(number, int) or not self.low <= number <= self.high:
            raise ValueError(f"got {quote(value)}; wanted a whole number from {self.low} to {self.high}")
        return number


class IntegerOrAuto(Integer):
    """A whole number, or ``"auto"``, which stands for *automatic()*, held within the range."""

    def __init__(self, low: int, high: int, automatic: Callable[[], int]) -> None:
        super().__init__(low, high)
        self.automatic = automatic

    def read(self, value: object) -> int:
        if value == "auto":
            return max(self.low, min(self.high, self.automatic()))
        try:
            return super().read(value)
        except ValueError as error:
            raise ValueError(f'{error}, or "auto"') from None


class Number(Kind):
    """A number from *low* to *high*, whole or not; a float once read."""

    def __init__(self, low: float, high: float) -> None:
        self.low = low
        self.high = high

    def read(self, value: object) -> float:
        number = value
        if isinstance(value, Filled) and re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,30})?", value):
            number = float(value)
        # What is not a number (nan) is in no range.
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"got {quote(value)}; wanted a number from {self.low:g} to {self.high:g}")
        if not self.low <= number <= self.high:
            raise ValueError(f"got {quote(value)}; wanted a number from {self.low:g} to {self.high:g}")
        return float(number)


class Percentiles(Kind):
    """An array of percentiles, each above 0 and at most 100; a tuple of floats once read."""

    count_max = 16
    wanted = "an array of numbers above 0 and up to 100, such as [50, 90, 99.9]"

    def read(self, value: object) -> tuple[float, ...]:
        if not isinstance(value, list):
            raise ValueError(f"got {quote(value)}; wanted {self.wanted}")
        if len(value) > self.count_max:
            raise ValueError(f"has {len(value)} percentiles; at most {self.count_max} are allowed")
        found: list[float] = []
        for one in value:
            if isinstance(one, bool) or not isinstance(one, int | float) or not 0 < one <= 100:
                raise ValueError(f"got {quote(one)} in it; wanted {self.wanted}")
            if float(one) in found:
                raise ValueError(f"has {quote(one)} twice; each makes a field of its own")
            found.append(float(one))
        return tuple(found)

    def show(self, value: Any) -> list[float]:
        return list(value)


class Duration(Kind):
    """A time span from *low* to *high*; seconds as a float once read."""

    wanted = 'a duration with its unit, such as "200ms" or "30s"'

    def __init__(self, low: str, high: str) -> None:
        self.low = low
        self.high = high

    def read(self, value: object) -> float:
        if not isinstance(value, str):
            raise ValueError(f"got {quote(value)}; wanted {self.wanted}")
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            raise ValueError(f"got {quote(value)}; {_unless_filled(value, error, self.wanted)}") from None
        if not parse_duration(self.low) <= seconds <= parse_duration(self.high):
            raise ValueError(f"got {quote(value)}; wanted a duration from {self.low} to {self.high}")
        return seconds

    def show(self, value: Any) -> str:
        return format_duration(value)


class Durations(Duration):
    """One time span for all of *names*, or a table of them; those that it leaves out have *default*.

    Once read, a dictionary that has all names.
    """

    def __init__(self, names: tuple[str, ...], default: str, low: str, high: str) -> None:
        super().__init__(low, high)
        self.names = names
        self.default = default
        self.wanted = f'a duration with its unit, such as "{default}", or a table of them'

    def read(self, value: object) -> dict[str, float]:  # type: ignore[override]
        if not isinstance(value, Mapping):
            return dict.fromkeys(self.names, super().read(value))
        known = list(self.names)
        wrong = [
            f"unknown key {quote(name)}{hint(str(name), known) or '; known are ' + ', '.join(known)}"
            for name in value
            if name not in known
        ]
        found = dict.fromkeys(self.names, parse_duration(self.default))
        for name in self.names:
            if name in value:
                try:
                    found[name] = super().read(value[name])
                except ValueError as error:
                    wrong.append(f"{name}: {error}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return found

    def show(self, value: Any) -> Any:
        shown = {name: format_duration(seconds) for name, seconds in value.items()}
        return next(iter(shown.values())) if len(set(shown.values())) == 1 else shown


class SomeDurations(Duration):
    """A table of time spans for some of *names*; a dictionary of those once read."""

    def __init__(self, names: tuple[str, ...], example: str, low: str, high: str) -> None:
        super().__init__(low, high)
        self.names = names
        self.wanted = f'a table of durations, such as {{ {names[0]} = "{example}" }}'

    def read(self, value: object) -> dict[str, float]:  # type: ignore[override]
        if not isinstance(value, Mapping):
            raise ValueError(f"got {quote(value)}; wanted {self.wanted}")
        known = list(self.names)
        found: dict[str, float] = {}
        wrong = []
        for name, one in value.items():
            if name not in known:
                close = hint(str(name), known) or "; known are " + ", ".join(known)
                wrong.append(f"unknown key {quote(name)}{close}")
                continue
            try:
                found[str(name)] = super().read(one)
            except ValueError as error:
                wrong.append(f"{name}: {error}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return found

    def show(self, value: Any) -> Any:
        return {name: format_duration(seconds) for name, seconds in value.items()}


class Size(Kind):
    """A number of bytes from *low* to *high*."""

    wanted = 'a size with its unit, such as "1MiB", "25MB" or "512B"'

    def __init__(self, low: str, high: str) -> None:
        self.low = low
        self.high = high

    def read(self, value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            raise ValueError(f'got {value}; wanted a size with its unit: "{value}B" if bytes are meant')
        if not isinstance(value, str):
            raise ValueError(f"got {quote(value)}; wanted {self.wanted}")
        try:
            size = parse_size(value)
        except ValueError as error:
            raise ValueError(f"got {quote(value)}; {_unless_filled(value, error, self.wanted)}") from None
        if not parse_size(self.low) <= size <= parse_size(self.high):
            raise ValueError(f"got {quote(value)}; wanted a size from {self.low} to {self.high}")
        return size

    def show(self, value: Any) -> str:
        return format_size(value)


class Choice(Kind):
    """One of *values*, or if *empty* the empty string for none of them.

    Words in *later* are known but belong to a version to come.
    """

    def __init__(self, *values: str, later: tuple[str, ...] = (), empty: bool = False) -> None:
        self.values = values
        self.later = later
        self.empty = empty

    def read(self, value: object) -> str:
        if isinstance(value, str) and (value in self.values or (self.empty and not value)):
            return str(value)
        wanted = one_of(self.values)
        if isinstance(value, str) and value in self.later:
            raise ValueError(f"{quote(value)} is not available in this version; wanted {wanted}")
        close = hint(value, list(self.values)) if isinstance(value, str) else ""
        raise ValueError(f"got {quote(value)}; wanted {wanted}{close}")


class Choices(Kind):
    """An array of some of *values*, each once; a tuple once read."""

    def __init__(self, *values: str) -> None:
        self.values = values
        self.wanted = f"an array of some of {', '.join(map(quote, values))}"

    def read(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise ValueError(f"got {quote(value)}; wanted {self.wanted}")
        for one in value:
            if one not in self.values:
                close = hint(one, list(self.values)) if isinstance(one, str) else ""
                raise ValueError(f"got {quote(one)} in it; wanted {self.wanted}{close}")
            if value.count(one) > 1:
                raise ValueError(f"has {quote(one)} twice")
        return tuple(str(one) for one in value)

    def show(self, value: Any) -> list[str]:
        return list(value)


class Text(Kind):
    """A string without control characters. *pattern* must match all of it; *wanted* says so in words."""

    def __init__(
        self,
        *,
        pattern: str = "",
        wanted: str = "a string",
        empty: bool = True,
        chars_max: int = 1024,
        secret: bool = False,
    ) -> None:
        self.pattern = re.compile(pattern) if pattern else None
        self.wanted = wanted
        self.empty = empty
        self.chars_max = chars_max
        self.secret = secret

    def read(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValueError(
                f"got {'a value that is no string' if self.secret else quote(value)}; wanted {self.wanted}"
            )
        if not value:
            if self.secret and isinstance(value, Filled):
                raise ValueError(f"{quote(value)} stands for an empty text")
            if not self.empty:
                raise ValueError(f"is empty; wanted {self.wanted}")
            return ""
        if len(value) > self.chars_max:
            raise ValueError(f"has {len(value)} characters; at most {self.chars_max} are allowed")
        if CONTROL.search(value):
            shown = "the value" if self.secret else quote(value)
            raise ValueError(f"{shown} contains a control character")
        if self.pattern is not None and not self.pattern.fullmatch(value):
            raise ValueError(
                f"{'has the wrong form' if self.secret else 'got ' + quote(value)}; wanted {self.wanted}"
            )
        self.check(value)
        return str(value)

    def check(self, text: str) -> None:
        """Further demands of a subclass on a text that is not empty. Raises ValueError."""

    def show(self, value: Any) -> Any:
        return MASK if self.secret and value else value


class Secrets(Kind):
    """An array of secret texts; a tuple once read."""

    secret = True
    count_max = 64
    chars_max = 4096
    wanted = "an array of strings"

    def read(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise ValueError(f"got a value that is no array; wanted {self.wanted}")
        if len(value) > self.count_max:
            raise ValueError(f"has {len(value)} strings; at most {self.count_max} are allowed")
        one = Text(secret=True, empty=False, chars_max=self.chars_max)
        found = []
        for index, text in enumerate(value):
            try:
                found.append(one.read(text))
            except ValueError as error:
                raise ValueError(f"the string at {index}: {error}") from None
        return tuple(found)

    def show(self, value: Any) -> list[str]:
        return [MASK for _ in value]


class Inner(Kind):
    """A table inside a table, or ``false`` for none where it is *optional*; a struct, or None, once read.

    What stands in the table is read key by key, each with its own path in a message, by whoever reads the
    table around it (:mod:`agent.config`). Only what is no table comes here.
    """

    def __init__(self, table: type, optional: bool = False) -> None:
        self.table = table
        self.optional = optional
        self.wanted = "a table, or false" if optional else "a table"

    def read(self, value: object) -> None:
        off = value == "false" if isinstance(value, Filled) else value is False
        if not off or not self.optional:
            raise ValueError(f"got {quote(value)}; wanted {self.wanted}")

    def show(self, value: Any) -> Any:
        return False if value is None else value


class Texts(Kind):
    """An array of strings; a tuple once read. What a string must look like is for others to check."""

    def __init__(self, wanted: str, count_max: int) -> None:
        self.wanted = wanted
        self.count_max = count_max

    def read(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise ValueError(f"got {quote(value)}; wanted {self.wanted}")
        if len(value) > self.count_max:
            raise ValueError(f"has {len(value)} of them; at most {self.count_max} are allowed")
        return tuple(str(one) for one in value)

    def show(self, value: Any) -> Any:
        return list(value)


class ListenAddress(Text):
    """An address that :func:`parse_listen_address` takes."""

    def __init__(self) -> None:
        super().__init__(wanted=LISTEN_ADDRESSES, empty=False)

    def check(self, text: str) -> None:
        # Never quoted, since a password may stand before the "@".
        if text.startswith(_BROKERS) and "@" in text:
            raise ValueError('no user or password may stand in the address; use "options" for them')
        try:
            parse_listen_address(text)
        except ValueError as error:
            raise ValueError(f"{quote(text)}: {_unless_filled(text, error, self.wanted)}") from None


_BROKERS = tuple(f"{scheme}://" for scheme in BROKER_SCHEMES)


class HostPort(Text):
    """``HOST:PORT``, or the empty string for "off"."""

    def __init__(self) -> None:
        super().__init__(wanted='"HOST:PORT", or "" for off')

    def check(self, text: str) -> None:
        try:
            parse_host_port(text)
        except ValueError as error:
            raise ValueError(f"{quote(text)}: {_unless_filled(text, error, self.wanted)}") from None


class Url(Text):
    """An http or https address of a server, with a *query* if that may be.

    Credentials have keys of their own and are refused in it.
    """

    def __init__(self, query: bool = False) -> None:
        super().__init__(wanted='"http://HOST:PORT" or "https://HOST:PORT"', empty=False)
        self.query = query

    def check(self, text: str) -> None:
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError:
            raise ValueError(f"the address is malformed; wanted {self.wanted}") from None
        # Checked first and never quoted, since a password may stand before the "@".
        if "@" in parts.netloc:
            raise ValueError(
                'no user or password may stand in the address; use the keys for them ("token", "username")'
            )
        if (parts.query and not self.query) or parts.fragment or " " in text:
            marks = "# and spaces" if self.query else "?, # and spaces"
            end = "query" if self.query else "path"
            raise ValueError(f"the address must end with its {end}, without {marks}; wanted {self.wanted}")
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise ValueError(f"got {quote(text)}; wanted {self.wanted}")


class Headers(Kind):
    """A table of HTTP headers. Their values may be secrets, and are neither quoted nor shown."""

    secret = True
    count_max = 16
    chars_max = 4096
    wanted = 'a table of strings, such as { X-Scope-OrgID = "tenant" }'
    ours = ("authorization", "connection", "content-encoding", "content-length", "content-type", "host")
    # And what has "x-prometheus-remote-write-" before it.

    def read(self, value: object) -> dict[str, str]:
        if not isinstance(value, Mapping):
            raise ValueError(f"got a value that is no table; wanted {self.wanted}")
        if len(value) > self.count_max:
            raise ValueError(f"has {len(value)} headers; at most {self.count_max} are allowed")
        wrong = [message for name, text in value.items() if (message := self._wrong(str(name), text))]
        if wrong:
            raise ValueError("; ".join(wrong))
        return {str(name): str(text) for name, text in value.items()}

    def _wrong(self, name: str, text: object) -> str:
        if not _HEADER.fullmatch(name):
            return f"{quote(name)} is no name of a header"
        if name.lower() in self.ours or name.lower().startswith("x-prometheus-remote-write-"):
            return f"header {quote(name)} is set by penstock itself"
        good = isinstance(text, str) and text.isascii() and text.isprintable() and text.strip() == text
        if not good or not 0 < len(str(text)) <= self.chars_max:
            return (
                f"header {quote(name)}: wanted a string of 1 to {self.chars_max} printable ASCII characters"
            )
        return ""

    def show(self, value: Any) -> Any:
        return dict.fromkeys(value, MASK)


_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}")


class Tags(Kind):
    """A table of tags. What InfluxDB would refuse in a tag is refused here already."""

    count_max = 64
    chars_max = 1024
    # Half of the 64 KiB that InfluxDB takes for the series and its longest field key, so that tags which
    # every line is given leave room for those that it has.
    bytes_max = 32 * 1024
    # InfluxDB 2 refuses lines with tags of these names.
    reserved = ("time", "_measurement", "_field")

    def read(self, value: object) -> dict[str, str]:
        if not isinstance(value, Mapping):
            raise ValueError(f'got {quote(value)}; wanted a table of strings, such as {{ dc = "eu1" }}')
        if len(value) > self.count_max:
            raise ValueError(f"has {len(value)} tags; at most {self.count_max} are allowed")
        wrong = [message for name, text in value.items() if (message := self._wrong(str(name), text))]
        if wrong:
            raise ValueError("; ".join(wrong))
        size = sum(_written_bytes(str(name)) + _written_bytes(str(text)) + 2 for name, text in value.items())
        if size > self.bytes_max:
            raise ValueError(f"take {size} bytes of every line; at most {self.bytes_max} are allowed")
        return {str(name): str(text) for name, text in value.items()}

    def _wrong(self, name: str, text: object) -> str:
        if not isinstance(text, str):
            return f"tag {quote(name)}: got {quote(text)}; wanted a string"
        if name in self.reserved:
            return f"tag {quote(name)}: InfluxDB reserves this name"
        for what, part in (("name", name), ("value", text)):
            if not part or len(part) > self.chars_max or CONTROL.search(part) or _UNWRITABLE.search(part):
                return (
                    f"tag {quote(name)}: its {what} must have 1 to {self.chars_max} characters, "
                    "no control character, and no backslash at its end or before a comma, an equals sign "
                    "or a space"
                )
        return ""


# Line protocol has no way to write such a backslash that all versions of InfluxDB read alike.
_UNWRITABLE = re.compile(r"\\(?:[, =]|\Z)")


def _written_bytes(text: str) -> int:
    """Bytes of *text* in a line, where commas, equals signs and spaces are escaped."""
    return len(text.encode()) + sum(map(text.count, ",= "))


def _unless_filled(text: str, error: ValueError, wanted: str) -> str:
    """The details of *error* quote parts of *text*, which must not happen to what a reference stands for."""
    return f"wanted {wanted}" if isinstance(text, Filled) else str(error)
