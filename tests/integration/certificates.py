"""Certificates for tests, made with openssl."""

import ssl
import subprocess
from pathlib import Path

from tests.conftest import need

_NAMES = {"server": "IP:127.0.0.1", "elsewhere": "IP:127.0.0.9", "client": "DNS:client"}
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def make_certificates(folder: Path) -> Path:
    """Two authorities (``ca``, ``other``), and of the first the certificates of a server, of one elsewhere,
    and of a client: a ``.pem`` and a ``.key`` of each. Returns *folder*.
    """
    openssl = need("openssl")

    def run(*words: str) -> None:
        subprocess.run([openssl, *words], cwd=folder, check=True, capture_output=True, timeout=60)

    for name in ("ca", "other"):
        run("req", "-x509", *_KEY, "-days", "2", "-keyout", f"{name}.key", "-out", f"{name}.pem",
            "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip
    for name, address in _NAMES.items():
        (folder / f"{name}.ext").write_text(f"subjectAltName={address}\n")
        run("req", "-new", *_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "2", "-out", f"{name}.pem", "-extfile", f"{name}.ext")  # fmt: skip
    return folder


def server_context(certificates: Path, name: str = "server") -> ssl.SSLContext:
    """What a server of that *name* speaks TLS with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    return context
