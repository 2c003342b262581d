"""The daemon's line to the VRRP process: which virtual routers should run, whether the
services that they track have enough servers, and what became of it.

The VRRP process is a unit of its own and needs none of this to go on; a daemon that comes
back says all again. One without virtual routers does not look for the process at all.
"""

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lbctl.daemon.clock import Clock
from lbctl.daemon.control import Control
from lbctl.daemon.journal import Journal
from lbctl.desired import Rule, decide
from lbctl.events import RouterNotice, RouterRole, Trouble
from lbctl.messages import (
    AnyMessage,
    Done,
    Event,
    Garbage,
    Quorum,
    Role,
    RoleChange,
    Routers,
    Synced,
    decode,
    encode,
)
from lbctl.model import Config, Listen, TrackerKind
from lbctl.vrrp.control import LIMIT, PATH
from lbctl.vrrp.settings import to_message

PAUSE = 1.0  # seconds between two attempts to connect
SUBJECT = "virtual routers"


@dataclass
class RouterLink:
    """roles: what each virtual router is here, as last heard; empty without a line.
    on_role: told that one of them is another."""

    control: Control
    journal: Journal
    clock: Clock
    path: Path = PATH
    roles: dict[str, Role] = field(default_factory=dict)
    on_role: list[Callable[[], None]] = field(default_factory=list)
    _synced: dict[str, bool] = field(default_factory=dict)
    _line: socket.socket | None = None
    _wanted: Routers | None = None
    _quorums: dict[tuple[str, int], Quorum] = field(default_factory=dict)
    _trouble: str = ""

    async def keep(self) -> None:
        """For ever: a line, and after it another."""
        while True:
            if self._routers().routers or self.path.is_socket():
                try:
                    await self._serve()
                except (OSError, Garbage) as error:
                    self._complain(str(getattr(error, "strerror", None) or error))
            await asyncio.sleep(PAUSE)

    def tell_changes(self) -> None:
        """The configuration may want other virtual routers than before."""
        wanted = self._routers()
        if wanted != self._wanted:
            self._tell_quorums()
            self._wanted = wanted
            self._send(wanted)
            self._synced.clear()

    def touched(self, services: set[str]) -> None:
        """These services may have gained or lost servers."""
        if any(service in services for service, _ in self._tracked()):
            self._tell_quorums()

    def acts_for(self, service: str) -> bool:
        """Whether what is done once for a service is to be done here."""
        return acts_for(self.control.world.config, self.roles, service)

    def tell_synced(self, holds: bool) -> None:
        """Whether a full copy of what the peer remembers is held here. A virtual router that
        has another role since forgot, and hears it anew."""
        for name in self.control.world.config.routers:
            if name in self.roles and self._synced.get(name) is not holds:
                self._synced[name] = holds
                self._send(Synced(name, holds))

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
            line.setblocking(False)
            await loop.sock_connect(line, str(self.path))
            self._line, self._trouble, self._quorums, self._synced = line, "", {}, {}
            try:
                self._tell_quorums()
                self._wanted = self._routers()
                self._send(self._wanted)
                while data := await loop.sock_recv(line, LIMIT):
                    self._take(decode(data))
            finally:
                self._line, self.roles = None, {}
        raise ConnectionResetError("the VRRP process ended; it is looked for again")

    def _take(self, message: AnyMessage) -> None:
        match message:
            case RoleChange(router, role, reason, _):
                if self.roles.get(router) is not role:
                    self.roles[router] = role
                    self._synced.pop(router, None)
                    self.journal.tell(RouterRole(router, str(role), reason))
                    for hearer in self.on_role:
                        hearer()
            case Event(router, notice, text, _):
                self.journal.tell(RouterNotice(router, notice, text))
            case Done(refused):
                if refused:
                    self._complain(refused)
            case _:
                raise Garbage(f"{type(message).__name__} is not the VRRP process's to send")

    def _complain(self, text: str) -> None:
        """Once for each trouble."""
        if text != self._trouble:
            self._trouble = text
            hint = "" if self._line else " (systemctl start lbctl-vrrp)"
            self.journal.tell(Trouble(SUBJECT, f"{text}{hint}"))

    def _send(self, message: AnyMessage) -> None:
        """What cannot be sent is said again with the next line."""
        if self._line is None:
            return
        try:
            self._line.send(encode(message))
        except OSError:
            self._line.shutdown(socket.SHUT_RDWR)

    def _routers(self) -> Routers:
        routers = self.control.world.config.routers
        return Routers(tuple(to_message(router) for router in routers.values()))

    def _tracked(self) -> set[tuple[str, int]]:
        """The services that are tracked, with how many servers they need."""
        return {
            (tracker.subject, tracker.needs)
            for router in self.control.world.config.routers.values()
            for tracker in router.trackers
            if tracker.kind is TrackerKind.QUORUM
        }

    def _tell_quorums(self) -> None:
        for quorum in self._find_quorums():
            key = (quorum.service, quorum.needs)
            if self._quorums.get(key) != quorum:
                self._quorums[key] = quorum
                self._send(quorum)

    def _find_quorums(self) -> Iterator[Quorum]:
        """Whether enough servers take new flows by their own merit."""
        world, now = self.control.world, self.clock.now()
        for service, needs in self._tracked():
            if of := world.config.services.get(service):
                up = sum(
                    d.scheduled
                    and d.rule is not Rule.LAST_RESORT
                    and not world.is_outside(of, d.server)
                    for d in decide(world, service, now)
                )
                yield Quorum(service, up >= needs, needs)


def acts_for(config: Config, roles: Mapping[str, Role], service: str) -> bool:
    """Whether this gateway is the one that acts for a service: no virtual router has any of
    its addresses, or each that has is Active here. One that nothing is heard of may be
    Active elsewhere."""
    settings = config.services.get(service)
    listens = settings.listens if settings is not None else ()
    vips = {one.address for one in listens if isinstance(one, Listen)}
    owners = (name for name, one in config.routers.items() if not vips.isdisjoint(one.addresses))
    return all(roles.get(name) is Role.ACTIVE for name in owners)
