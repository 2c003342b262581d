"""What the VRRP process hears of syncing: never by what had been so before its role changed."""

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lbctl.daemon.replication import Replicator
from lbctl.daemon.routers import RouterLink
from lbctl.ha.words import Summary
from lbctl.messages import Role, RoleChange, Synced, decode, encode

from .test_control import FILE, Desk

EDGE = "virtual_routers:\n  edge: {vrid: 7, addresses: 192.0.2.10}\n"


class Process:
    """The VRRP process, played."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen()
        self._listener.setblocking(False)

    async def meet(self) -> None:
        self._line, _ = await asyncio.get_running_loop().sock_accept(self._listener)
        self._line.setblocking(False)

    def say(self, role: Role) -> None:
        self._line.send(encode(RoleChange("edge", role, "played", 0.0)))

    async def hear(self) -> bool:
        """The next word about syncing."""
        while True:
            data = await asyncio.get_running_loop().sock_recv(self._line, 1 << 20)
            assert data
            if isinstance(message := decode(data), Synced):
                return message.holds

    def close(self) -> None:
        self._line.close()
        self._listener.close()


def test_each_role_hears_of_syncing_anew_and_no_router_that_is_not_there(tmp_path: Path) -> None:
    desk, path = Desk(tmp_path, FILE + EDGE), tmp_path / "vrrp.sock"

    async def story() -> None:
        process, changed = Process(path), asyncio.Event()
        link = RouterLink(await desk.open(), desk.journal, desk.time.clock, path)
        link.on_role.append(changed.set)
        keeping = asyncio.create_task(link.keep())
        await process.meet()
        link.tell_synced(True)  # there is no virtual router yet
        for role in (Role.ACTIVE, Role.BACKUP):
            changed.clear()
            process.say(role)
            await changed.wait()
            for holds in (False, True, True):
                link.tell_synced(holds)
            assert [await process.hear() for _ in range(2)] == [False, True]
        keeping.cancel()
        process.close()

    asyncio.run(asyncio.wait_for(story(), 20))


@pytest.mark.parametrize("what", ["roles_changed", "tell_changes"])
def test_nothing_is_in_sync_until_a_change_was_followed(what: str) -> None:
    held: Any = SimpleNamespace(replica=SimpleNamespace(whole=True), installed=True)
    held.control = held.loop = held.journal = None
    replicator = Replicator(held, "gw1", lambda: "")
    assert not replicator.synced
    replicator.peer = Summary(1.0)
    assert replicator.synced
    getattr(replicator, what)()
    assert not replicator.synced
