"""The way that checks *through* servers take: to the VIP, by way of one server of it.

The worker that makes them has a network namespace of its own, which has no VIP; this lays
the ways in it. The namespace and all in it end with the worker.

    worker ── rule: mark N ──▶ table N ──▶ default via server N ──┐
                                     (tun: dev tN, to server N) ──┴── probe0 ── back, or front
                                                                    (a macvlan with gateway.probe)

The server answers the namespace's address directly, as it answers clients. One that lacks
the VIP drops what comes.
"""

import asyncio
import os
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address

from lbctl.errors import LbctlError
from lbctl.model import Encapsulation, Gateway, Interface, Mode, Via

COMMAND = ("unshare", "--net", "--")  # before that of the worker
DEVICE = "probe0"
FIRST_TABLE = 1000  # the kernel's own end at 255
PATIENCE = 5.0  # seconds for a command, and for a worker to be in its namespace
# Between a router's reverse path filter and replies from an address that has no way back.
_FILTERS = "for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done"
_TUNNELS = {
    (Encapsulation.IPIP, 4): "ipip",
    (Encapsulation.IPIP, 6): "ip6tnl mode ip6ip6",
    (Encapsulation.GUE, 4): "ipip",
    (Encapsulation.GUE, 6): "ip6tnl mode ip6ip6",
    (Encapsulation.GRE, 4): "gre",
    (Encapsulation.GRE, 6): "ip6gre",
}


class Passage:
    """The ways in one worker's namespace. marks: those laid, by server; a mark is never
    used for another."""

    def __init__(self) -> None:
        self.marks: dict[Via, int] = {}
        self._last = 0
        self._pid = 0
        self._from: tuple[Interface, ...] = ()

    def mark(self, via: Via) -> int | None:
        """None: no way to it was laid so far."""
        return self.marks.get(via)

    async def open(self, pid: int, gateway: Gateway) -> None:
        """Bring a fresh worker's namespace up. Raises LbctlError."""
        self.marks, self._pid, self._from = {}, pid, gateway.probe
        await _moved(pid)
        parent = gateway.back[0] if gateway.back else gateway.front
        words = f"link add link {parent} name {DEVICE} netns {pid} type macvlan mode bridge"
        await _run(["ip", *words.split()])
        await self._inside(["sh", "-c", _FILTERS])
        for version in (4, 6):
            await self._ip(version, opening(version, gateway.probe))

    async def lay(self, vias: Iterable[Via]) -> None:
        """Have a way to each of `vias`, and to no other. Raises LbctlError."""
        wanted = set(vias)
        lines: dict[int, list[str]] = {4: [], 6: []}
        for via in sorted(self.marks.keys() - wanted):
            lines[version_of(via)] += gone(self.marks.pop(via), via)
        for via in sorted(wanted - self.marks.keys()):
            self._last += 1
            self.marks[via] = self._last
            lines[version_of(via)] += laid(self._last, via, self._from)
        for version, batch in lines.items():
            if batch:
                await self._ip(version, batch)

    async def _ip(self, version: int, lines: Iterable[str]) -> None:
        await self._inside(["ip", f"-{version}", "-batch", "-"], "\n".join(lines) + "\n")

    async def _inside(self, words: Sequence[str], text: str = "") -> None:
        await _run(["nsenter", f"--net=/proc/{self._pid}/ns/net", "--", *words], text)


# --- lines for `ip -batch` --------------------------------------------------------------


def opening(version: int, own: Iterable[Interface]) -> Iterator[str]:
    yield "link set lo up"
    for one in own:
        if one.version == version:
            nodad = " nodad" if version == 6 else ""  # it is to be there at once
            yield f"address add {one} dev {DEVICE}{nodad}"
    yield f"link set {DEVICE} up"


def version_of(via: Via) -> int:
    return ip_address(via.address).version


def laid(mark: int, via: Via, own: Iterable[Interface]) -> Iterator[str]:
    """Raises LbctlError where none of `own` is of its family."""
    version, table = version_of(via), FIRST_TABLE + mark
    ours = next((str(one.ip) for one in own if one.version == version), None)
    if ours is None:
        why = f"checks through {via.address}: no IPv{version} address to ask from"
        raise LbctlError(why, "name one in gateway.probe")
    if via.mode is Mode.TUN:
        assert via.encapsulation is not None
        kind, _, mode = _TUNNELS[via.encapsulation, version].partition(" ")
        gue = f" encap gue encap-sport auto encap-dport {via.port}" if via.port else ""
        ends = f"{mode} local {ours} remote {via.address}{gue}".strip()
        yield f"link add t{mark} type {kind} {ends}"
        yield f"link set t{mark} up"
        yield f"route add default dev t{mark} src {ours} table {table}"
    else:
        yield f"route add default via {via.address} dev {DEVICE} onlink table {table}"
    yield f"rule add fwmark {mark} table {table}"


def gone(mark: int, via: Via) -> Iterator[str]:
    yield f"rule del fwmark {mark} table {FIRST_TABLE + mark}"
    yield f"route flush table {FIRST_TABLE + mark}"
    if via.mode is Mode.TUN:
        yield f"link del t{mark}"


# --- commands ---------------------------------------------------------------------------


async def _moved(pid: int) -> None:
    """Until process `pid` is in a network namespace that is not ours."""
    ours = os.stat("/proc/self/ns/net").st_ino
    try:
        async with asyncio.timeout(PATIENCE):
            # The kernel tells nobody.
            while os.stat(f"/proc/{pid}/ns/net").st_ino == ours:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    except (TimeoutError, FileNotFoundError):
        mend = "CAP_SYS_ADMIN, and unshare of util-linux"
        raise LbctlError("checks through servers: no network namespace for them", mend) from None


async def _run(words: Sequence[str], text: str = "") -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        async with asyncio.timeout(PATIENCE):
            _, said = await process.communicate(text.encode())
    except TimeoutError:
        process.kill()
        said = b"it does not end"
    if process.returncode != 0:
        why = said.decode(errors="replace").strip().splitlines()[:1] or ["no reason given"]
        command = next(word for word in reversed(words) if word in ("ip", "sh"))
        raise LbctlError(f"checks through servers: {command}: {why[0]}")
