"""Who may write: tokens, in the forms in which clients of InfluxDB and others show them."""

import base64
import binascii
import hmac
from collections.abc import Iterator, Mapping

from agent.inputs.http.refused import Refused


def check(tokens: tuple[bytes, ...], headers: Mapping[str, str], query: Mapping[str, str]) -> None:
    """Raise Refused, 401, unless there are no *tokens* or the request shows one of them.

    It may do so as ``Authorization: Token …`` or ``Bearer …``, in the place of the password of ``Basic``, of
    ``Token USER:PASSWORD``, or of the query parameters ``u`` and ``p``. All are compared in constant time.
    """
    if not tokens:
        return
    found = False
    shown = [*_shown(headers.get("Authorization", ""), query)]
    for text in shown:
        for token in tokens:
            found |= hmac.compare_digest(text, token)
    if not found:
        message = "authorization failed" if shown else "unable to parse authentication credentials"
        raise Refused(401, message, headers={"WWW-Authenticate": 'Basic realm="InfluxDB"'})


def _shown(authorization: str, query: Mapping[str, str]) -> Iterator[bytes]:
    scheme, _, text = authorization.partition(" ")
    scheme, text = scheme.lower(), text.strip()
    if scheme in ("token", "bearer"):
        yield _bytes(text)
        if ":" in text:
            yield _bytes(text.partition(":")[2])
    elif scheme == "basic":
        try:
            yield base64.b64decode(text, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            pass
    if "p" in query:
        yield _bytes(query["p"])


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
