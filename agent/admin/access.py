"""Who is answered by the admin HTTP over TCP: who shows the token, if there is one, by TLS if that is wanted.

Whoever reaches the control socket is the agent's own user or root, and is asked for nothing. Without aiohttp,
as :mod:`agent.admin.bind` is: a certificate that cannot be used shows at once.
"""

import base64
import binascii
import hashlib
import hmac
import socket
import ssl
from collections.abc import Mapping
from ipaddress import ip_address
from typing import NamedTuple

import msgspec

from agent.config import Agent
from agent.errors import ControlError

_FREE = ("/healthz", "/readyz")
"""Probes show no token, and nothing that they are told is anybody's secret."""


class Refusal(NamedTuple):
    """What a client is told in place of an answer."""

    status: int
    why: str
    headers: dict[str, str]


class Access(msgspec.Struct, frozen=True):
    """What is asked of clients; made by :func:`access_for`. Two that ask for the same are equal."""

    token: bytes = b""
    """Empty: none."""
    certificate: bytes = b""
    """A digest of what TLS is spoken with; empty without TLS."""
    files: tuple[str, str] = ("", "")

    def context(self) -> ssl.SSLContext | None:
        """What speaks TLS; None where none is spoken. Raises ControlError."""
        return _context(*self.files) if self.certificate else None

    def refuse(self, path: str, headers: Mapping[str, str], loopback: bool) -> Refusal | None:
        """Why a client gets no answer; *loopback*: only this machine reaches the address."""
        if path in _FREE:
            return None
        if loopback and path != "/metrics" and not _is_ours(headers.get("Host", "")):
            # A page from anywhere may have its name point here; what it would ask for has that name as Host.
            why = "this address answers to localhost, to IP addresses and to this machine's name only"
            return Refusal(403, why, {})
        if self.token and not _shows(self.token, headers.get("Authorization", "")):
            why = "wanted: the token, as Authorization: Bearer, or as the password of Basic"
            return Refusal(401, why, {"WWW-Authenticate": 'Basic realm="penstock"'})
        return None


def access_for(agent: Agent) -> Access:
    """What *agent* wants. Raises ControlError if TLS cannot be spoken so."""
    if not agent.admin or not agent.admin_cert:
        return Access(agent.admin_token.encode())
    files = agent.admin_cert, agent.admin_key or agent.admin_cert
    _context(*files)
    digest = hashlib.blake2b()
    for name in files:
        with open(name, "rb") as file:
            digest.update(file.read())
    return Access(agent.admin_token.encode(), digest.digest(), files)


def _context(cert: str, key: str) -> ssl.SSLContext:
    def no_password() -> str:
        raise ControlError("agent.admin_key: the key is encrypted; it must be readable by itself")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(cert, key, no_password)
    except (OSError, ValueError) as error:
        what = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise ControlError(f"agent.admin_cert: cannot be used: {what}") from error
    return context


def _is_ours(host: str) -> bool:
    """Whether a Host is one that nobody else can have point here; what is no browser may say none."""
    if not host:
        return True
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name.lower().rstrip(".") in ("localhost", socket.gethostname().lower()):
        return True
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _shows(token: bytes, authorization: str) -> bool:
    """Whether *authorization* has the *token*; compared in constant time."""
    scheme, _, text = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return hmac.compare_digest(text.strip().encode("utf-8", "surrogateescape"), token)
    if scheme.lower() == "basic":
        try:
            password = base64.b64decode(text.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return False
        return hmac.compare_digest(password, token)
    return False
