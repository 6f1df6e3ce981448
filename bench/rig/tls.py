"""TLS as REDIS_URL asks for it: what may be set there, and the context that comes of it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis.connection import SSLConnection

from bench.model import PreflightError

PARAMETERS = (
    "ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname",
    "ssl_ciphers", "ssl_keyfile", "ssl_password",
)  # fmt: skip
REQUIREMENTS = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}
EXPIRED, WRONG_NAMES = 10, (62, 64)  # of OpenSSL's X509_V_ERR_…: the host's name, its address


class TLSConnection(SSLConnection):
    """Checks the certificate against `server_name`: by a link, `host` is the link's address."""

    def __init__(self, *, server_name: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._server_name = server_name

    def _wrap_socket_with_ssl(self, sock: Any) -> Any:
        dialled, self.host = self.host, self._server_name
        try:
            return super()._wrap_socket_with_ssl(sock)  # type: ignore[no-untyped-call]
        finally:
            self.host = dialled


def tls_context(settings: Mapping[str, Any]) -> ssl.SSLContext:
    """The context that redis-py makes for each connection with these settings, of which only
    `PARAMETERS` matter here. Raises PreflightError naming the one that is wrong."""
    context = ssl.create_default_context()
    required = settings.get("ssl_cert_reqs", "required")
    if required not in REQUIREMENTS:
        raise PreflightError(f"?ssl_cert_reqs is one of {', '.join(REQUIREMENTS)}")
    context.check_hostname = settings.get("ssl_check_hostname", True) and required != "none"
    context.verify_mode = REQUIREMENTS[required]
    _trust(context, settings.get("ssl_ca_certs"), settings.get("ssl_ca_path"))
    _identify(context, settings)
    if ciphers := settings.get("ssl_ciphers"):
        with _refusing("?ssl_ciphers names none that OpenSSL knows; correct it"):
            context.set_ciphers(ciphers)
    return context


def _trust(context: ssl.SSLContext, file: str | None, folder: str | None) -> None:
    if file is not None:
        with _refusing("?ssl_ca_certs names no file of certificates; correct its path"):
            context.load_verify_locations(cafile=file)
    if folder is not None:
        if not Path(folder).is_dir():
            raise PreflightError("?ssl_ca_path names no folder; correct its path")
        context.load_verify_locations(capath=folder)


def _identify(context: ssl.SSLContext, settings: Mapping[str, Any]) -> None:
    """The client's own certificate, for a server that asks for one."""
    certificate, key = settings.get("ssl_certfile"), settings.get("ssl_keyfile")
    if certificate is None:
        if key is not None:
            raise PreflightError("?ssl_keyfile goes with ?ssl_certfile=FILE; name both")
        return
    wrong = (
        "?ssl_certfile and ?ssl_keyfile name no certificate and key that belong together; correct "
        "their paths, or give ?ssl_password"
    )
    with _refusing(wrong):
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(certificate, key, settings.get("ssl_password", ""))


@contextmanager
def _refusing(wrong: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        raise PreflightError(wrong) from None


def distrust(error: ssl.SSLCertVerificationError, settings: Mapping[str, Any]) -> str:
    """Why a server's certificate is not trusted, and how to mend it."""
    if error.verify_code == EXPIRED:
        mend = "have it renewed"
    elif error.verify_code in WRONG_NAMES:
        mend = "write its host in REDIS_URL as the certificate does, or add ?ssl_check_hostname=no"
    elif settings.get("ssl_ca_certs") or settings.get("ssl_ca_path"):
        mend = "?ssl_ca_certs in REDIS_URL names another authority than the one that signed it"
    else:
        mend = "name its authority with ?ssl_ca_certs=FILE in REDIS_URL"
    return f"its certificate is not trusted ({error.verify_message}); {mend}"
