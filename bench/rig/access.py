"""What clients need to get into the server under load, beside an address."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

URL_VARIABLE = "BENCH_REDIS_URL"
LOGINS_VARIABLE = "BENCH_LOGINS"
CA_VARIABLE = "BENCH_CA_FILE"

Login = tuple[str | None, str]  # user, where it is not the default one, and password


@dataclass(frozen=True, slots=True, repr=False)
class Access:
    """`url` may hold a password; `logins` by the `auth` of a cell; `ca_file` names the authority
    that vouches for a server of our own.

    It reaches worker processes by their environment alone: command lines and Locust's messages can
    be read by others.
    """

    url: str
    logins: Mapping[str, Login] = field(default_factory=dict)
    ca_file: str | None = None

    def environment(self) -> dict[str, str]:
        """That of this process, with what `from_environment` reads."""
        told = {**os.environ, URL_VARIABLE: self.url, LOGINS_VARIABLE: json.dumps(self.logins)}
        return told if self.ca_file is None else {**told, CA_VARIABLE: self.ca_file}

    @classmethod
    def from_environment(cls) -> Access:
        """Raises KeyError where no `environment` was given to this process."""
        logins = json.loads(os.environ.get(LOGINS_VARIABLE, "{}"))
        return cls(
            os.environ[URL_VARIABLE],
            {auth: (user, password) for auth, (user, password) in logins.items()},
            os.environ.get(CA_VARIABLE),
        )
