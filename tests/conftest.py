"""What every test may use."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from bench.rig.server import Server, open_server

SIMULATED = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """A real server of our own, shared: set keys of your own and judge counts by differences."""
    with open_server(None, max_connections=1_000) as server:
        yield server


@pytest.fixture
def report_line(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Says a line of what was measured by simulation; all stand at the end of pytest's output."""
    return request.config.stash.setdefault(SIMULATED, []).append


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if lines := config.stash.get(SIMULATED, []):
        terminalreporter.section("simulated coverage")
        for line in lines:
            terminalreporter.write_line(line)
