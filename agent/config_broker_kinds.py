"""Kinds of keys that speak of a broker: its addresses, its names for things, options of its client.

A client is told the rest of what it can do by its own names, in ``options``: whoever knows NATS or Kafka
knows them, and what they mean is in the client's manual. Those that the agent sets itself are refused.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from agent.config_kinds import MASK, Kind, Text
from agent.config_values import Filled, hint, one_of, parse_host_port, quote

AGENT = "{agent}"
"""What stands for ``[agent] id`` in a subject and in the key of a message."""

STREAM_NAME = r"[^\s.*>/\\]+"
STREAM_NAME_WANTED = "a name without spaces, dots, asterisks, > and slashes"

# https://docs.nats.io/nats-concepts/subjects
_TOKEN = r"[^\s.*>{}]+"

TOPIC = r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,249}"
TOPIC_WANTED = "1 to 249 letters, digits, and any of ._-"


class Addresses(Kind):
    """An array of addresses of a cluster, ``HOST:PORT``, with one of *schemes* if there are any.

    *port* is that of the example.
    """

    count_max = 64

    def __init__(self, *schemes: str, port: int) -> None:
        self.schemes = schemes
        forms = [f"{one}://HOST:PORT" for one in schemes] or ["HOST:PORT"]
        example = f"{schemes[0]}://127.0.0.1:{port}" if schemes else f"127.0.0.1:{port}"
        self.wanted = f"an array of {one_of(forms)}, such as [{quote(example)}]"

    def read(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list) or not value:
            raise ValueError(f"got {quote(value) if value != [] else 'none'}; wanted {self.wanted}")
        if len(value) > self.count_max:
            raise ValueError(f"has {len(value)} addresses; at most {self.count_max} are allowed")
        for one in value:
            self._check(one)
        return tuple(str(one) for one in value)

    def _check(self, address: object) -> None:
        if not isinstance(address, str):
            raise ValueError(f"got {quote(address)} in it; wanted {self.wanted}")
        # Checked first and never quoted, since a password may stand before the "@".
        if "@" in address:
            raise ValueError('no user or password may stand in an address; use "options" for them')
        scheme, separator, rest = address.partition("://") if self.schemes else ("", "", address)
        try:
            if (self.schemes and (not separator or scheme not in self.schemes)) or not parse_host_port(rest)[
                1
            ]:
                raise ValueError(f"wanted {self.wanted}")
        except ValueError as error:
            details = f"wanted {self.wanted}" if isinstance(address, Filled) else str(error)
            raise ValueError(f"{quote(address)}: {details}") from None

    def show(self, value: Any) -> list[str]:
        return list(value)


class Subject(Text):
    """A subject of NATS to publish to, which may hold ``{agent}``; without *agent* one to listen to.

    That may hold wildcards. It may be *empty* where it is for some only.
    """

    def __init__(self, agent: bool = False, empty: bool = False) -> None:
        part = rf"(?:[^\s.*>{{}}]|{re.escape(AGENT)})+" if agent else rf"(?:{_TOKEN}|\*)"
        # The last one may be all that follows.
        end = "" if agent else "|>"
        super().__init__(
            pattern=rf"(?:{part}\.)*(?:{part}{end})",
            wanted=f'a subject such as "metrics.{AGENT}"' if agent else 'a subject such as "metrics.>"',
            empty=empty,
            chars_max=255,
        )


class Options(Kind):
    """A table of options for a client, names that have dots with quotes or without; texts once read.

    Their values may be secrets, and are neither quoted nor shown. Which names there are is for subclasses
    to say, and with a listener for its scheme.
    """

    secret = True
    count_max = 64
    chars_max = 64 * 1024
    wanted = 'a table of options, such as { user = "u", password = "${credential:password}" }'

    def read(self, value: object) -> dict[str, str]:
        if not isinstance(value, Mapping):
            raise ValueError(f"got a value that is no table; wanted {self.wanted}")
        found = dict(_named(value))
        if len(found) > self.count_max:
            raise ValueError(f"has {len(found)} options; at most {self.count_max} are allowed")
        read = {name: _text(one) for name, one in found.items()}
        wrong = [message for name, text in read.items() if (message := self.wrong(name, text))]
        if wrong:
            raise ValueError("; ".join(wrong))
        return read

    def wrong(self, name: str, text: str) -> str:
        """What is wrong with an option, or nothing. *text* is empty where it is none."""
        good = 0 < len(text) <= self.chars_max and "\0" not in text
        return "" if good else f"{quote(name)}: wanted a text, a number, true or false"

    def show(self, value: Any) -> dict[str, str]:
        return dict.fromkeys(value, MASK)


def _named(options: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Each option with its name. TOML makes tables of names with dots that have no quotes around them."""
    for name, one in options.items():
        if isinstance(one, Mapping):
            yield from ((f"{name}.{rest}", inner) for rest, inner in _named(one))
        else:
            yield str(name), one


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int) else ""


class NatsOptions(Options):
    """Of nats-py's ``connect``: those that say who we are, and how TLS is to be."""

    known = (
        *("user", "password", "token", "user_credentials", "nkeys_seed", "nkeys_seed_str"),
        *("inbox_prefix", "tls_hostname", "tls_handshake_first"),
    )
    flags = ("tls_handshake_first",)
    wanted = 'a table of options of nats-py, such as { user = "u", password = "${credential:password}" }'

    def wrong(self, name: str, text: str) -> str:
        if name not in self.known:
            close = hint(name, list(self.known)) or f"; known are {', '.join(self.known)}"
            return f"unknown option {quote(name)}{close}"
        if name in self.flags and text not in ("true", "false"):
            return f"{quote(name)}: wanted true or false"
        return super().wrong(name, text)


_NOTHING = "nothing to choose"
_TLS = {
    "ssl.ca.location": 'the key "ca"',
    "ssl.certificate.location": 'the key "cert"',
    "ssl.key.location": 'the key "key"',
    "enable.ssl.certificate.verification": 'the key "insecure_skip_verify"',
}


class KafkaOptions(Options):
    """Of librdkafka's producer, under its own names, but for those that the agent sets itself."""

    wanted = 'a table of options of librdkafka, such as { "security.protocol" = "SASL_SSL" }'
    ours: Mapping[str, str] = {
        **_TLS,
        "bootstrap.servers": 'the key "brokers"',
        "metadata.broker.list": 'the key "brokers"',
        "acks": _NOTHING,
        "request.required.acks": _NOTHING,
        "enable.idempotence": _NOTHING,
        "enable.gapless.guarantee": _NOTHING,
        "transactional.id": _NOTHING,
        "message.timeout.ms": 'the key "response_timeout"',
        "delivery.timeout.ms": 'the key "response_timeout"',
        "request.timeout.ms": 'the key "response_timeout"',
        "socket.connection.setup.timeout.ms": 'the key "connect_timeout"',
        "compression.type": 'the key "compression"',
        "compression.codec": 'the key "compression"',
        "batch.num.messages": _NOTHING,
        "linger.ms": _NOTHING,
        "queue.buffering.max.ms": _NOTHING,
    }
    """What there is in place of an option."""

    def wrong(self, name: str, text: str) -> str:
        if name in self.ours:
            return f"{quote(name)} is set by penstock itself; in its place there is {self.ours[name]}"
        if not re.fullmatch(r"[a-z0-9]+(?:\.[a-z0-9]+)*", name):
            return f"{quote(name)} is no option of librdkafka"
        return super().wrong(name, text)


class KafkaConsumerOptions(KafkaOptions):
    """Of librdkafka's consumer."""

    ours: Mapping[str, str] = {
        **_TLS,
        "bootstrap.servers": "the address of the listener",
        "metadata.broker.list": "the address of the listener",
        "group.id": 'the key "group"',
        "enable.auto.commit": _NOTHING,
        "enable.auto.offset.store": _NOTHING,
        "enable.partition.eof": _NOTHING,
        "auto.offset.reset": _NOTHING,
        "partition.assignment.strategy": _NOTHING,
    }
