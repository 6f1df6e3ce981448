"""Certificates for a server of our own: an authority made for a block, and what it vouches for."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from bench.rig import host

NAMES = ("localhost", "127.0.0.1", "::1")


class Certificates:
    """Files of an authority, a certificate in its name and its key, until closed.

    The keys are of the curve P-256, as most of today's are: RSA's would take ten times the server's
    time for a handshake. On Linux the files have no name in any folder, and so are gone with this
    process, however it ends; children read them by the paths given.
    """

    def __init__(self, names: Sequence[str] = NAMES, expires_at: datetime | None = None) -> None:
        import trustme  # brings cryptography, which most verbs need not wait for

        self._stack = ExitStack()
        self._folder: Path | None = None
        authority = trustme.CA()
        issued = authority.issue_cert(*names, not_after=expires_at)
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        self.ca_file = self._file("authority", authority.cert_pem.bytes())
        self.cert_file = self._file("certificate", chain)
        self.key_file = self._file("key", issued.private_key_pem.bytes())

    def __enter__(self) -> Certificates:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the files. May be repeated."""
        self._stack.close()

    def _file(self, name: str, content: bytes) -> str:
        if not host.LINUX:
            return self._named_file(name, content)
        file = self._stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        file.write(content)
        file.flush()
        return f"/proc/{os.getpid()}/fd/{file.fileno()}"

    def _named_file(self, name: str, content: bytes) -> str:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp())
            self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
        path = self._folder / f"{name}.pem"
        path.touch(mode=0o600)
        path.write_bytes(content)
        return str(path)
