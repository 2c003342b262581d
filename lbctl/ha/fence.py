"""The fence seen from the VRRP process: which addresses and MACs are whose, and leases.

What it writes are pinned maps that the fence's programs read (bpf/fence.h), so all of it
goes on to hold when this process is gone. A process that starts finds every lease past, or
soon past, and renews none but for a router that it made Active itself.
"""

from collections.abc import Iterable
from contextlib import ExitStack, suppress
from ctypes import sizeof
from dataclasses import dataclass
from pathlib import Path

from lbctl.dataplane.xdp import abi, bpf, maps
from lbctl.errors import DataPlaneError
from lbctl.ha.room import Claim, crowded_out
from lbctl.model import Address, Family, Mac, Router
from lbctl.vrrp.realtime import jiffy

CLOCK = "fence_clock"
FRAME = bytes(64)  # BPF_PROG_TEST_RUN wants one
FOR_EVER = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Guarded:
    """One virtual router. ifindex: of the interface it is on."""

    router: Router
    ifindex: int

    def places(self) -> Iterable[bytes]:
        """Its keys in the map of addresses."""
        for address in self.router.addresses:
            yield key(address, self.ifindex)


def key(address: Address, ifindex: int) -> bytes:
    where = ifindex if address.version == 6 and address.is_link_local else 0
    return bytes(abi.FenceKey(abi.Addr(abi.words(address)), where, address.version))


class Fence:
    """Open, or made. Needs root; raises DataPlaneError."""

    def __init__(self, pins: Path) -> None:
        self._numbers: dict[str, int] = {}
        self._guarded: dict[str, Guarded] = {}
        self._active: set[str] = set()
        self._jiffy = jiffy()
        with ExitStack() as stack:
            opened = []
            for spec in maps.FENCE:
                maps.create_one(pins, spec)
                descriptor = bpf.pinned(pins / spec.name)
                stack.callback(descriptor.close)
                opened.append(descriptor)
            try:
                self._clock = bpf.pinned(pins / CLOCK)
            except FileNotFoundError:
                raise DataPlaneError(f"{pins / CLOCK}: the fence is not loaded") from None
            stack.callback(self._clock.close)
            leases, self._keys = opened
            memory = bpf.map_memory(leases, sizeof(abi.Fence))
            self._leases = abi.Fence.from_buffer(memory)
            self._stack = stack.pop_all()

    def guard(self, wanted: dict[str, Guarded]) -> dict[str, str]:
        """These routers and no others, by name; one that is new is fenced at once. Those
        that there is no room for, and why: others may still be leaving."""
        wanted, refused = self._fitting(wanted)
        if wanted == self._guarded:
            return refused
        for name in self._guarded.keys() - wanted.keys():
            self.end(name)
            del self._numbers[name]
        self._leases.clear_until = 0  # look closely, whatever is half written
        free = iter(set(range(1, abi.ROUTERS)) - set(self._numbers.values()))
        for name in wanted:
            if name not in self._numbers:
                self._numbers[name] = next(free)
                self._leases.until[self._numbers[name]] = 0
        self._write_macs(wanted)
        self._write_keys(wanted)
        self._guarded = wanted
        self._sum_up()
        return refused

    def _fitting(self, wanted: dict[str, Guarded]) -> tuple[dict[str, Guarded], dict[str, str]]:
        """Those that the maps have room for, those that are in them first; what the others
        lack."""
        first = sorted(wanted, key=lambda one: one not in self._guarded)
        claims = {name: Claim(wanted[name].ifindex, set(wanted[name].places())) for name in first}
        refused = crowded_out(claims)
        return {name: wanted[name] for name in first if name not in refused}, refused

    def renew(self, name: str, seconds: float) -> None:
        """From now on, rounded down: a peer never waits longer than we answer."""
        number = self._numbers.get(name)
        if number is None:
            return
        bpf.run_program(self._clock, FRAME)
        self._active.add(name)
        self._leases.until[number] = self._leases.now + int(seconds / self._jiffy + 1e-6)
        self._sum_up()

    def end(self, name: str) -> None:
        """The router is not ours any more."""
        self._active.discard(name)
        if (number := self._numbers.get(name)) is not None:
            self._leases.clear_until = 0
            self._leases.until[number] = 0

    def close(self) -> None:
        """A process that ends in peace leaves no fence: it has given up the addresses."""
        self.guard({})
        self._stack.close()

    def _sum_up(self) -> None:
        """While all are ours, a packet has one number to look at."""
        if self._active == self._guarded.keys():
            leases = (self._leases.until[self._numbers[name]] for name in self._guarded)
            self._leases.clear_until = min(leases, default=FOR_EVER)
        else:
            self._leases.clear_until = 0

    def _write_macs(self, wanted: dict[str, Guarded]) -> None:
        ports: dict[int, abi.FencePort] = {}
        for name, one in wanted.items():
            if one.router.mac is Mac.VIRTUAL:
                port = ports.setdefault(one.ifindex, abi.FencePort(one.ifindex))
                four = one.router.family is Family.IPV4
                (port.router4 if four else port.router6)[one.router.vrid] = self._numbers[name]
        for place in range(abi.PORTS):
            self._leases.port[place] = [*ports.values(), *[abi.FencePort()] * abi.PORTS][place]

    def _write_keys(self, wanted: dict[str, Guarded]) -> None:
        """Those that stay are never absent; those that go make room first."""
        held = {k: self._numbers[name] for name, one in wanted.items() for k in one.places()}
        for address in set(bpf.keys(self._keys, sizeof(abi.FenceKey))) - held.keys():
            with suppress(FileNotFoundError):
                bpf.delete(self._keys, address)
        for address, number in held.items():
            bpf.update(self._keys, address, number.to_bytes(4, "little"))
