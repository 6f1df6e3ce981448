"""A block's worth of apparatus: opened whole, measured against itself, gone at the end."""

from __future__ import annotations

import psutil
import pytest
import redis

from bench.model import ApparatusLost, Cell, Settings
from bench.rig import rig as rig_module
from bench.rig.idle import COUNT, IdleConnections
from bench.rig.rig import Rig
from bench.rig.server import Server, open_server

RTT_S = 0.02
CELLS = [Cell("t", 5, 5), Cell("t", 5, 5, rtt_s=RTT_S)]


def test_a_rig_knows_its_own_round_trips_and_leaves_nothing() -> None:
    with Rig(Settings(), CELLS) as rig:
        assert rig.link is not None
        pids = [rig.server.pid, rig.link.pid, rig.hiccups.pid]
        near, far = Cell("x", 1, 1), Cell("x", 1, 1, rtt_s=RTT_S)
        assert rig.address(near) is None
        assert rig.address(far) not in (None, (rig.server.host, rig.server.port))
        assert rig.unloaded_s(far) >= RTT_S > rig.unloaded_s(near) > 0
    assert not [pid for pid in pids if psutil.pid_exists(pid or 0)]


def test_a_link_that_dies_while_the_rig_opens_is_named_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unloaded_s(server: Server, way: tuple[str, int] | None) -> float:
        if way:
            (link,) = (each for each in children() if "bench.rig.relay" in each.cmdline())
            link.kill()
        return unloaded(server, way)

    def children() -> list[psutil.Process]:
        return [each for each in psutil.Process().children() if each not in before]

    before, unloaded = psutil.Process().children(), rig_module.unloaded_s
    monkeypatch.setattr(rig_module, "unloaded_s", unloaded_s)
    with (
        pytest.raises(ApparatusLost, match=r"the link .* killed by signal 9"),
        Rig(Settings(), CELLS),
    ):
        pass
    assert children() == []


def test_idle_connections_cost_what_the_server_says(redis_server: Server) -> None:
    idle = IdleConnections(redis_server)
    young = idle.cost()
    told = redis.Redis.from_url(redis_server.url).client_list()
    assert young.memory_bytes is not None
    assert 1_000 < young.memory_bytes < 100_000
    idle.close()
    assert len(told) > COUNT
    gone = idle.cost()
    assert (gone.memory_bytes, gone.age_s > young.age_s) == (None, True)


@pytest.mark.parametrize("commands", [["+@all", "-client|id"], ["+@all", "-client|list"]])
def test_a_server_that_forbids_asking_leaves_the_cost_unknown(
    redis_server: Server, commands: list[str]
) -> None:
    admin = redis.Redis.from_url(redis_server.url)
    admin.acl_setuser("shy", enabled=True, passwords=["+secret"], keys="*", commands=commands)
    url = f"redis://shy:secret@{redis_server.host}:{redis_server.port}"
    with open_server(url, max_connections=10) as shy:
        idle = IdleConnections(shy)
        assert idle.cost().memory_bytes is None
        idle.close()
    admin.acl_deluser("shy")


def test_a_server_that_ends_is_lost_and_not_a_traceback() -> None:
    with open_server(None, max_connections=20) as server:
        idle = IdleConnections(server)
        connection = server.connect()
        psutil.Process(server.pid).kill()
        with pytest.raises(ApparatusLost, match="the server"):
            server.command(connection, "PING")
        with pytest.raises(ApparatusLost, match="the server"):
            idle.cost()
        idle.close()
