"""The port on IPVS.

A batch of operations: what would touch foreign objects is refused; the intent is written;
full NAT's new rules and the switches go in; the messages go out in batches; the services
touched are read back; intents and rules that are no longer needed go.
"""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from lbctl.dataplane.ipvs import nft
from lbctl.dataplane.ipvs.codec import (
    Command,
    Info,
    ServerEntry,
    ServiceEntry,
    SyncDaemon,
    SyncRole,
    Timeouts,
    as_told,
    info_of,
    server_entry,
    service_entry,
    service_key,
    sync_daemon,
    sync_request,
    timeouts_of,
    timeouts_request,
    told,
)
from lbctl.dataplane.ipvs.genl import Garbled
from lbctl.dataplane.ipvs.intent import IntentFile
from lbctl.dataplane.ipvs.netlink import open_ipvs
from lbctl.dataplane.ipvs.operation import Request, in_force, latest, request_of, routed
from lbctl.dataplane.ipvs.owned import Owned, after, claimed, split
from lbctl.dataplane.ipvs.refusal import explain, explained, foreign
from lbctl.dataplane.ipvs.sysctls import (
    FULLNAT,
    ROOT,
    Setting,
    enforce,
    inspect,
    lacking,
    settings,
)
from lbctl.dataplane.port import (
    Active,
    AddServer,
    AddService,
    Counters,
    Flow,
    Op,
    Refusal,
    RemoveServer,
    RemoveService,
    SetServer,
    SetService,
    Stats,
    Switch,
)
from lbctl.errors import DataPlaneError, NotPermitted
from lbctl.model import Endpoint, Family, Forwarding, Frontend, Mode, Table, VirtualService

Told = tuple[Op, Request]
Listing = list[tuple[ServiceEntry, list[ServerEntry]]]
SERVICE_OPS = (AddService, SetService, RemoveService)
FEW = 16  # services; asking for so many is cheaper than listing all
WRITES = {
    "services added": Command.NEW_SERVICE,
    "services changed": Command.SET_SERVICE,
    "services removed": Command.DEL_SERVICE,
    "servers added": Command.NEW_DEST,
    "servers changed": Command.SET_DEST,
    "servers removed": Command.DEL_DEST,
}


class SyncPlace(NamedTuple):
    """id: only gateways with the same one hear each other."""

    interface: str
    id: int


class IpvsPlane:
    """IPVS in the network namespace of the thread that opens it.

    intent: the file that says which entries are ours. pair: a virtual router can bring us
    a peer's connections. sync: where they are told to the peer, and the peer's are heard.
    sysctls: where the kernel's switches are. Opening raises Unsupported where the kernel has
    no IPVS and NotPermitted where we may not use it.
    """

    name = "ipvs"

    def __init__(
        self,
        intent: Path,
        pair: bool = False,
        sync: SyncPlace | None = None,
        sysctls: Path = ROOT,
    ) -> None:
        self._intent = IntentFile(intent)
        self._sysctls = sysctls
        self._pair = pair
        self._sync = sync
        self._unsynced = ""
        self._untranslated = ""
        self._rules_known = False
        self._strange: dict[Frontend | str, str] = {}
        self._foreign = Table()
        self._routed: set[Family] = set()
        self._translated: frozenset[Frontend] = frozenset()
        self._netlink = open_ipvs()
        try:
            self.observe()
        except BaseException:
            self._netlink.close()
            raise
        self.tend()

    # --- the port -----------------------------------------------------------------------

    def observe(self) -> Table:
        held = _table(self.listing())
        ours, self._foreign = split(held, self._intent.owned)
        self._routed = routed(
            (frontend, destination)
            for frontend, service in ours.services.items()
            for destination in service.destinations.values()
        )
        if self._intent.owned.fullnat or not self._rules_known:
            self._read_rules()
        return _with_fullnat(ours, self._translated)

    def apply(self, ops: Sequence[Op]) -> list[Refusal]:
        refusals, possible = self._sift(ops)
        if not possible:
            return refusals
        was = self._intent.owned
        try:
            self._intent.write(claimed(was, possible))
            failed, possible = self._prepare(possible, was)
        except DataPlaneError as error:
            return refusals + [Refusal(op, error) for op in possible]
        refusals += failed
        results = self._carry_out(possible)
        if results or any(isinstance(op, RemoveServer | RemoveService) for op in possible):
            refused = {id(refusal.op) for refusal in results}
            self._intent.write(after(was, [op for op in possible if id(op) not in refused]))
        self._translate(self._intent.owned.fullnat)
        return refusals + results

    def stats(self) -> Stats:
        """The kernel counts a service by itself, and goes on when a server leaves: the sum of
        `past` and the servers is its number, also while it brings these up to date in turn."""
        servers: dict[tuple[Frontend, Endpoint], Counters] = {}
        active: dict[tuple[Frontend, Endpoint], Active] = {}
        past: dict[Frontend, Counters] = {}
        owned = self._intent.owned
        for service, entries in self.listing():
            if not owned.has(service.frontend):
                continue
            gone = service.counters
            for one in entries:
                if owned.has(service.frontend, one.endpoint):
                    key = service.frontend, one.endpoint
                    servers[key] = one.counters
                    active[key] = Active(one.active, "records", closing=one.inactive)
                    gone -= servers[key]
            past[service.frontend] = gone
        writes = {name: self._netlink.sent.get(c, 0) for name, c in WRITES.items()}
        return Stats(servers, active, writes=writes, past=past)

    def export_flows(self) -> Iterator[Flow]:
        """None: the kernel's own sync daemon carries IPVS connections to a peer."""
        return iter(())

    def import_flows(self, flows: Iterable[Flow]) -> int:
        return 0

    def fileno(self) -> int | None:
        return None

    def catch_up(self) -> bool:
        return False

    def tend(self) -> None:
        """Keep the switches as they must be: whoever turns one back loses flows. One that
        cannot be set shows in `switches()`. Bring full NAT's rules up to date where that
        failed. Keep the sync daemon at work, in both roles."""
        enforce(self._wanted(), self._sysctls)
        self._translate(self._intent.owned.fullnat)
        try:
            self._keep_sync()
        except (DataPlaneError, NotPermitted) as error:
            self._unsynced = f"connections are not told to the peer: {error}"
        else:
            self._unsynced = ""

    def join(self, pair: bool, sync: SyncPlace | None) -> None:
        """Be a gateway of a pair, or of another one, or of none any more: as when opened."""
        if (pair, sync) != (self._pair, self._sync):
            self._pair, self._sync = pair, sync
            self.tend()

    def remarks(self) -> list[str]:
        strange = [f"{one}: left alone: {why}" for one, why in self._strange.items()]
        return [one for one in (self._unsynced, self._untranslated) if one] + strange

    def close(self) -> None:
        self._netlink.close()

    # --- beyond the port ----------------------------------------------------------------

    def foreign(self) -> Table:
        """What the kernel held at the last `observe()` that is not ours. A foreign server
        in a service of ours stands here under that service."""
        return self._foreign

    def shared(self, frontend: Frontend) -> bool:
        return self._intent.owned.has(frontend)

    def listing(self) -> Listing:
        """Every service of the kernel, foreign ones too, with its servers and numbers."""
        self._strange = {}
        with explained("read the table"):
            services = list(self._known(self._netlink.dump(Command.GET_SERVICE)))
            return [(service, self._servers(service.frontend)) for service in services]

    def switches(self) -> list[Switch]:
        """The kernel's, with their reasons, as `lbctl get status` shows them."""
        return inspect(self._wanted(), self._sysctls)

    def info(self) -> Info:
        with explained("read its version"):
            return info_of(self._netlink.ask(Command.GET_INFO))

    def timeouts(self) -> Timeouts:
        with explained("read the timeouts"):
            return timeouts_of(self._netlink.ask(Command.GET_CONFIG))

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Of connections, in seconds; a zero leaves that one as it is."""
        self._command("set the timeouts", (Command.SET_CONFIG, timeouts_request(timeouts)))

    def sync_daemons(self) -> list[SyncDaemon]:
        with explained("read the sync daemon"):
            return [sync_daemon(one) for one in self._netlink.dump(Command.GET_DAEMON)]

    def _keep_sync(self) -> None:
        """Stop what we started elsewhere, and have both roles run here. A role that somebody
        else has started, wherever, is left to them."""
        was, place = self._intent.owned.sync, self._sync
        if was is None and place is None:
            return
        running = {one.role: (one.interface, one.id) for one in self.sync_daemons()}
        if was is not None and was != place:
            for role in [role for role, where in running.items() if where == was]:
                self.stop_sync(role)
                del running[role]
        self._intent.write(replace(self._intent.owned, sync=place))
        for role in SyncRole:
            if place is not None and role not in running:
                self.start_sync(SyncDaemon(role, *place))

    def start_sync(self, daemon: SyncDaemon) -> None:
        attempt = f"start the sync {daemon.role} on {daemon.interface}"
        self._command(attempt, (Command.NEW_DAEMON, sync_request(daemon)))

    def stop_sync(self, role: SyncRole) -> None:
        request = sync_request(SyncDaemon(role, ""))
        self._command(f"stop the sync {role}", (Command.DEL_DAEMON, request))

    def zero(self, frontend: Frontend | None = None) -> None:
        """Set the counters of one service, or of all, to zero."""
        body = service_key(frontend) if frontend is not None else b""
        self._command("zero counters", (Command.ZERO, body))

    # --- reading ------------------------------------------------------------------------

    def _servers(self, frontend: Frontend) -> list[ServerEntry]:
        found = self._netlink.dump(Command.GET_DEST, service_key(frontend))
        return self._understood(frontend, found)

    def _known(self, dump: Iterable[memoryview]) -> Iterator[ServiceEntry]:
        """The same of services: one that we do not know cannot be ours."""
        for one in dump:
            try:
                yield service_entry(one)
            except Garbled as error:
                self._strange["a service"] = str(error)

    def _understood(self, frontend: Frontend, dump: list[memoryview]) -> list[ServerEntry]:
        """What another tool put there in a way that we do not know is passed over: it is
        told by `remarks()`, and its service stays."""
        found = []
        for one in dump:
            try:
                found.append(server_entry(one, frontend.family))
            except Garbled as error:
                self._strange[frontend] = str(error)
        return found

    def _wanted(self) -> tuple[Setting, ...]:
        return settings(
            pair=self._pair,
            fullnat=bool(self._intent.owned.fullnat),
            routed_ipv4=Family.IPV4 in self._routed,
            routed_ipv6=Family.IPV6 in self._routed,
        )

    # --- writing ------------------------------------------------------------------------

    def _sift(self, ops: Sequence[Op]) -> tuple[list[Refusal], Sequence[Op]]:
        """Refuse what would touch what is not ours."""
        taken = self._taken(ops)
        removals = any(isinstance(op, RemoveService) for op in ops)
        if not (self._foreign.services or removals or taken):
            return [], ops
        trespasses = [
            (op, foreign(op, "the service") if op.frontend in taken else self._trespass(op))
            for op in ops
        ]
        refusals = [Refusal(op, error) for op, error in trespasses if error is not None]
        return refusals, [op for op, error in trespasses if error is None]

    def _taken(self, ops: Sequence[Op]) -> set[Frontend]:
        """Services to be added that another tool has made since we last looked. They are never
        claimed, or a process that dies at that very moment would own them when it comes back."""
        adding = {
            op.frontend
            for op in ops
            if isinstance(op, AddService) and not self._intent.owned.has(op.frontend)
        }
        with suppress(DataPlaneError, NotPermitted), explained("look for services"):
            return {one.frontend for one in self._headers(adding)}
        return set()  # then the kernel refuses what is there

    def _trespass(self, op: Op) -> DataPlaneError | None:
        """Why `op` would touch what is not ours, if it would."""
        if isinstance(op, RemoveService) and self._intent.owned.has(op.frontend):
            return self._emptied(op)
        others = self._foreign.get(op.frontend)
        if others is None:
            return None
        if not self._intent.owned.has(op.frontend):
            return foreign(op, "the service")
        if isinstance(op, AddServer) and op.endpoint in others.destinations:
            return foreign(op, "the server")
        return None

    def _emptied(self, op: RemoveService) -> DataPlaneError | None:
        """Why a service of ours must stay: a server that another tool put there goes with it,
        also one that came since we last looked."""
        try:
            with explained("read the servers"), suppress(ProcessLookupError):  # ESRCH: it is gone
                held = [one.endpoint for one in self._servers(op.frontend)]
                others = [one for one in held if not self._intent.owned.has(op.frontend, one)]
                if others:
                    return foreign(op, "server " + ", ".join(map(str, others)))
        except (DataPlaneError, NotPermitted) as error:
            return DataPlaneError(f"{op}: {error.message}", error.hint)
        return foreign(op, "a server") if op.frontend in self._strange else None

    def _prepare(self, ops: Sequence[Op], was: Owned) -> tuple[list[Refusal], Sequence[Op]]:
        """What must be true before the kernel hears of `ops`, and is claimed already; those
        of full NAT that cannot be, and the others. was: ours before. Raises DataPlaneError."""
        changes = [op for op in ops if isinstance(op, AddServer | SetServer)]
        self._routed |= routed((op.frontend, op.destination) for op in changes)
        unset = enforce(self._wanted(), self._sysctls)
        self._translate(was.fullnat | self._intent.owned.fullnat)
        full = [op for op in changes if op.destination.forwarding.mode is Mode.FULLNAT]
        if not full:
            return [], ops
        missing = lacking(FULLNAT, unset, self._sysctls)
        refusals = [
            Refusal(op, missing or DataPlaneError(self._untranslated))
            for op in full
            if missing or op.frontend not in self._translated
        ]
        if not refusals:
            return [], ops
        refused = {id(one.op) for one in refusals}
        rest = [op for op in ops if id(op) not in refused]
        self._intent.write(claimed(was, rest))
        return refusals, rest

    def _translate(self, frontends: frozenset[Frontend]) -> None:
        """Full NAT's rules as they must be. Where that fails, `remarks()` says why, what is
        there is what was, and `tend()` tries again: all else goes on."""
        if frontends == self._translated:
            if self._rules_known:
                self._untranslated = ""
            return
        try:
            nft.write(frontends)
        except DataPlaneError as error:
            self._read_rules()
            self._untranslated = str(error)
        else:
            self._translated, self._rules_known, self._untranslated = frontends, True, ""

    def _read_rules(self) -> None:
        """What cannot be read is as it was last known."""
        try:
            self._translated = nft.read()
        except DataPlaneError as error:
            self._rules_known = False
            self._untranslated = str(error) if self._intent.owned.fullnat else ""
        else:
            self._untranslated, self._rules_known = "", True

    def _carry_out(self, ops: Sequence[Op]) -> list[Refusal]:
        """Services that are new go first and are waited for: where one is refused because
        another tool was quicker, servers must not land in that tool's service."""
        refusals: list[Refusal] = []
        done: list[Told] = []
        without: set[Frontend] = set()
        for adding, group in groupby(ops, lambda op: isinstance(op, AddService)):
            batch = list(group)
            if without and not adding:
                vain = [op for op in batch if op.frontend in without]
                refusals += [
                    Refusal(op, DataPlaneError(f"{op}: No such service: it was refused"))
                    for op in vain
                ]
                batch = [op for op in batch if op.frontend not in without]
            failed, taken = self._write(batch)
            refusals += failed
            done += taken
            if adding:
                without |= {refusal.op.frontend for refusal in failed}
        return refusals + self._read_back(done)

    def _write(self, ops: Sequence[Op]) -> tuple[list[Refusal], list[Told]]:
        """Send `ops`; those that failed, and those that the kernel took."""
        refusals: list[Refusal] = []
        sent: list[Told] = []
        for op in ops:
            try:
                sent.append((op, request_of(op)))
            except ValueError as error:
                refusals.append(Refusal(op, DataPlaneError(f"{op}: {error}")))
        try:
            errnos = self._netlink.write([request for _, request in sent])
        except OSError as error:
            cause = f"IPVS: cannot write: {error.strerror}"
            return refusals + [Refusal(op, DataPlaneError(f"{op}: {cause}")) for op, _ in sent], []
        if not any(errnos):
            return refusals, sent
        results = list(zip(sent, errnos, strict=True))
        refusals += [Refusal(op, explain(op, number)) for (op, _), number in results if number]
        return refusals, [one for one, number in results if not number]

    def _read_back(self, done: Sequence[Told]) -> list[Refusal]:
        """Operations that the kernel took and whose effect is not there."""
        if not done:
            return []
        try:
            doubtful, held = self._held(done)
        except DataPlaneError as error:
            return [Refusal(op, error) for op, _ in done]
        cause = "taken, but not in force: another tool undid it, or it was lost"
        return [
            Refusal(op, DataPlaneError(f"{op}: {cause}"))
            for op in doubtful
            if not in_force(op, held)
        ]

    def _held(self, done: Sequence[Told]) -> tuple[list[Op], Table]:
        """Operations that are not plainly in force, and their services as they are now."""
        requests = {id(op): body for op, (_, body) in done}
        ops = latest([op for op, _ in done])
        with explained("read back"):
            headers = self._headers(dict.fromkeys(op.frontend for op in ops))
            dumps = self._dumps(op.frontend for op in ops if not isinstance(op, SERVICE_OPS))
            as_they_are = {f: {as_told(one) for one in dump} for f, dump in dumps.items()}
            doubtful = [
                op
                for op in ops
                if not isinstance(op, AddServer | SetServer)
                or told(requests[id(op)]) not in as_they_are[op.frontend]
            ]
            unclear = {op.frontend for op in doubtful if not isinstance(op, SERVICE_OPS)}
            found = [
                (one, self._understood(one.frontend, dumps[one.frontend]))
                if one.frontend in unclear
                else (one, [])
                for one in headers
            ]
        # Rules that go have not gone yet: a packet without need of one passes it unharmed.
        translated = self._translated & self._intent.owned.fullnat
        return doubtful, _with_fullnat(_table(found), translated)

    def _dumps(self, frontends: Iterable[Frontend]) -> dict[Frontend, list[memoryview]]:
        """The servers of each, as the kernel sends them."""
        return {
            frontend: self._netlink.dump(Command.GET_DEST, service_key(frontend))
            for frontend in dict.fromkeys(frontends)
        }

    def _headers(self, frontends: Collection[Frontend]) -> list[ServiceEntry]:
        """These services without their servers: one by one, or picked from a dump of all."""
        if len(frontends) > FEW:
            dump = self._known(self._netlink.dump(Command.GET_SERVICE))
            return [one for one in dump if one.frontend in frontends]
        found = []
        for frontend in frontends:
            with suppress(ProcessLookupError):  # ESRCH: it is gone
                found.append(self._netlink.ask(Command.GET_SERVICE, service_key(frontend)))
        return list(self._known(found))

    def _command(self, attempt: str, request: Request) -> None:
        """One request that is no operation of the port. Raises DataPlaneError."""
        with explained(attempt):
            number = self._netlink.write([request])[0]
            if number:
                raise OSError(number, os.strerror(number))


def _table(listing: Listing) -> Table:
    return Table(
        {
            service.frontend: replace(
                service.service, destinations={one.endpoint: one.destination for one in servers}
            )
            for service, servers in listing
        }
    )


_FULLNAT = Forwarding(Mode.FULLNAT)


def _with_fullnat(table: Table, translated: frozenset[Frontend]) -> Table:
    """NAT of a service whose source nftables translates is full NAT."""
    if not translated:
        return table
    services = table.services.items()
    return Table({f: _as_fullnat(s) if f in translated else s for f, s in services})


def _as_fullnat(service: VirtualService) -> VirtualService:
    destinations = {
        endpoint: replace(one, forwarding=_FULLNAT) if one.forwarding.mode is Mode.NAT else one
        for endpoint, one in service.destinations.items()
    }
    return replace(service, destinations=destinations)
