"""What every test may use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.rig.server import Server, open_server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """A real server of our own, shared: set keys of your own and judge counts by differences."""
    with open_server(None, max_connections=1_000) as server:
        yield server
