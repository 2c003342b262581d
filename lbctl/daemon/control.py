"""What people may change, and the one way in which every change goes:

    read (file + overrides -> Config) -> try it on a copy of the world -> take it

What is tried shows its operations (`--dry-run`) and is refused where it would take a
service's last server without `force`. What is taken is marked; the reconcile loop does the
rest. An invalid file never gets past the first arrow.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import msgspec

from lbctl.daemon.clock import Clock
from lbctl.daemon.compare import changes
from lbctl.daemon.journal import Journal
from lbctl.daemon.moments import load_changes, pass_time
from lbctl.daemon.overrides import (
    Override,
    Path,
    expired,
    with_override,
    without_path,
)
from lbctl.daemon.reader import Read
from lbctl.daemon.state import (
    Saved,
    StateDirectory,
    digest,
    move_override,
    restore_hooks,
    with_facts,
    with_hooks,
)
from lbctl.daemon.trial import operations, refuse_if_emptied
from lbctl.desired import settle
from lbctl.errors import InvalidConfig, LbctlError, NotFound, faults_of
from lbctl.events import (
    AgentHeard,
    AnyEvent,
    ConfigRefused,
    ConfigTaken,
    Drilled,
    HealthChanged,
    Ordered,
    OverrideDropped,
    OverrideSet,
    Trouble,
)
from lbctl.ha.drill import KEPT, Drill, tell
from lbctl.health.judge import Health
from lbctl.health.report import Report
from lbctl.model import Endpoint, Frontend, ServerName
from lbctl.world import Admin, Order, Sighting, Target, World, owners

ReadConfig = Callable[[bytes, str, Sequence[Override]], Awaitable[Read]]
SAVE_EVERY = 1.0  # seconds
SAVE_RETRY = 10.0
MOST_TOLD = 5  # overrides that a file was taken under
OTHER_GATEWAY = "gateway: what changed there holds once the daemon is started again"


@dataclass(frozen=True)
class Intent:
    """What people want, orders aside: a generation of the file, and what was changed live."""

    text: bytes
    origin: str
    generation: int
    overrides: tuple[Override, ...] = ()


@dataclass(frozen=True)
class Manner:
    """How a change is made. until: seconds of the clock that never steps; None: for good."""

    by: str = ""
    reason: str = ""
    until: float | None = None
    dry_run: bool = False
    force: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """What a change did, or would do.

    changed: False where nothing was to do. services: those it touches. changes: of the
    configuration, line by line. operations: of the data path. stale: ids of overrides about
    what is gone. refused: what the data path did not take; known once it was asked.
    """

    changed: bool
    dry_run: bool = False
    generation: int = 0
    override: int | None = None
    services: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    stale: tuple[int, ...] = ()
    warnings: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


@dataclass
class Standing:
    """All that the daemon knows and was told: what a restart brings back."""

    world: World
    intent: Intent
    read: Read
    saved: Saved


class Control:
    """Owns the standing, and changes it.

    on_touched: told the services that have to be looked at again. on_changed: told that
    the configuration or an order is another one.
    """

    def __init__(
        self,
        standing: Standing,
        directory: StateDirectory,
        journal: Journal,
        clock: Clock,
        read: ReadConfig,
    ) -> None:
        self._standing = standing
        self._directory = directory
        self._journal = journal
        self._clock = clock
        self._read = read
        self.on_touched: list[Callable[[set[str]], None]] = []
        self.on_changed: list[Callable[[], None]] = []
        self._changing = asyncio.Lock()
        self._saving = asyncio.Lock()
        self._unsaved = True
        self._intent_unsaved = True  # of that, what people want
        self._save_after = clock.now()
        self._looked = clock.now()
        self.save_error = ""
        # What hooks did, so that a restart does not forget a cooldown.
        self.hooks = restore_hooks(standing.saved, clock)
        self._settle(set(standing.world.config.services))
        self._gateway = standing.world.config.gateway  # what the data path was opened for

    @property
    def world(self) -> World:
        return self._standing.world

    @property
    def intent(self) -> Intent:
        return self._standing.intent

    @property
    def stale(self) -> tuple[Override, ...]:
        return self._standing.read.stale

    @property
    def warnings(self) -> tuple[str, ...]:
        return self._warnings(self._standing.read)

    @property
    def origins(self) -> dict[int, str]:
        return dict(self._standing.saved.origins)

    @property
    def drills(self) -> tuple[Drill, ...]:
        """The last ones, oldest first."""
        return self._standing.saved.drills

    def note_drill(self, drill: Drill) -> None:
        saved = self._standing.saved
        kept = (*saved.drills, drill)[-KEPT:]
        self._standing.saved = msgspec.structs.replace(saved, drills=kept)
        self._unsaved = True
        self._journal.tell(Drilled(drill.router, tell(drill), drill.unhurt, drill.by))

    # --- changes of the file ------------------------------------------------------------

    async def take_file(
        self, text: bytes, origin: str, manner: Manner, own: bool = False
    ) -> Outcome:
        """Run `text` as a new generation. own: it is what the daemon's own file says.

        Raises InvalidConfig, or Unkept where the disk does not take it, and then nothing has
        changed.
        """
        async with self._changing:
            same = text == self.intent.text
            number = self.intent.generation if same else self._next_generation()
            intent = replace(self.intent, text=text, origin=origin, generation=number)
            events = [] if same else [self._taken(intent, manner)]
            outcome = await self._change(intent, replace(manner, force=True), events, own=own)
            return _under(intent.overrides, outcome)

    def refuse_file(self, origin: str, error: LbctlError) -> None:
        """Tell that a file was not taken, where nobody waits for the answer."""
        self._journal.tell(ConfigRefused(origin, faults_of(error), self.intent.generation))

    async def rollback(self, to: int | None, manner: Manner) -> Outcome:
        """Run an older generation again: number `to`, or the one before this."""
        async with self._changing:
            number = self._generation_before() if to is None else to
            text = await asyncio.to_thread(self._directory.generation, number)
            origin = self.origins.get(number, f"generation {number}")
            intent = replace(self.intent, text=text, origin=origin, generation=number)
            events = [self._taken(intent, manner)]
            outcome = await self._change(intent, replace(manner, force=True), events)
            return _under(intent.overrides, outcome)

    def generations(self) -> list[int]:
        return self._directory.generations()

    def _generation_before(self) -> int:
        running = self.intent.generation
        older = [number for number in self.generations() if number < running]
        if not older:
            raise NotFound(
                f"generation {running}: there is none before it", "`lbctl apply` takes a file"
            )
        return older[-1]

    def _next_generation(self) -> int:
        return max([self.intent.generation, *self.generations()]) + 1

    def _taken(self, intent: Intent, manner: Manner) -> ConfigTaken:
        return ConfigTaken(intent.generation, intent.origin, manner.by)

    # --- overrides ----------------------------------------------------------------------

    async def override(self, path: Path, value: object, manner: Manner) -> Outcome:
        """Change one value live, on top of the file; None deletes."""
        return await self.override_all([(path, value)], manner)

    async def override_all(self, values: Sequence[tuple[Path, object]], manner: Manner) -> Outcome:
        """Change these values live, in this order: all of them, or none."""
        async with self._changing:
            number = self._standing.saved.last_override
            intent, events = self.intent, list[AnyEvent]()
            without: Read | None = None  # read once, however many are deleted
            for path, value in values:
                kept = replace(intent, overrides=without_path(intent.overrides, path))
                if value is None and len(kept.overrides) < len(intent.overrides):
                    # What only an override had made is gone with the override.
                    if without is None:
                        without = await self._read_without([p for p, v in values if v is None])
                    if not _has(without, path):
                        events += _dropped(intent, kept, f"deleted by {manner.by}")
                        intent = kept
                        continue
                number += 1
                one = self._override(number, path, value, manner)
                intent = replace(intent, overrides=with_override(intent.overrides, one))
                events.append(OverrideSet(one.id, str(one), manner.by, manner.reason))
            read = await self._read(intent.text, intent.origin, intent.overrides)
            new = [one for one in intent.overrides if one not in self.intent.overrides]
            if lost := next((one for one in new if one in read.stale), None):
                raise NotFound(
                    f"{'.'.join(lost.path)}: cannot be changed: there is no such object",
                    "`lbctl get servers` lists what there is",
                )
            outcome = self._take(intent, read, manner, events, last_override=number)
            return msgspec.structs.replace(outcome, override=new[-1].id if new else None)

    async def _read_without(self, paths: Sequence[Path]) -> Read:
        """What there would be had nobody ever overridden anything at or below `paths`."""
        overrides: Sequence[Override] = self.intent.overrides
        for path in paths:
            overrides = without_path(overrides, path)
        return await self._read(self.intent.text, self.intent.origin, overrides)

    def _override(self, number: int, path: Path, value: object, manner: Manner) -> Override:
        now = self._clock.now()
        return Override(number, path, value, manner.reason, manner.by, now, manner.until)

    async def follow(self, puts: Sequence[Override], gone: Set[Path]) -> None:
        """What was changed live on the other gateway, in its order; gone: taken back there.
        Raises InvalidConfig, and then nothing has changed."""
        async with self._changing:
            number, kept = self._standing.saved.last_override, self.intent.overrides
            intent = replace(
                self.intent, overrides=tuple(one for one in kept if one.path not in gone)
            )
            events = _dropped(self.intent, intent, "taken back on the other gateway")
            for one in puts:
                if known := next((held for held in intent.overrides if one.same(held)), None):
                    theirs = msgspec.structs.replace(known, there=True)
                    same = (theirs if held is known else held for held in intent.overrides)
                    intent = replace(intent, overrides=tuple(same))
                    continue
                number += 1
                new = msgspec.structs.replace(one, id=number)
                intent = replace(intent, overrides=with_override(intent.overrides, new))
                events.append(OverrideSet(new.id, str(new), f"{new.by} there", new.reason))
            if intent == self.intent:
                return
            read = await self._read(intent.text, intent.origin, intent.overrides)
            manner = Manner("the other gateway", force=True)
            self._take(intent, read, manner, events, last_override=number)

    def adopt(self, paths: Iterable[Path]) -> None:
        """What was changed there at these was changed here, as from now."""
        if ours := set(paths):
            self._standing.intent = replace(
                self.intent,
                overrides=tuple(
                    msgspec.structs.replace(one, there=False) if one.path in ours else one
                    for one in self.intent.overrides
                ),
            )
            self._unsaved = self._intent_unsaved = True

    async def drop_override(self, number: int, manner: Manner) -> Outcome:
        """Forget one override: what the file says holds again."""
        async with self._changing:
            overrides = self.intent.overrides
            if not any(one.id == number for one in overrides):
                raise NotFound(
                    f"override {number}: there is none with this number",
                    "`lbctl get overrides` lists them",
                )
            kept = tuple(one for one in overrides if one.id != number)
            intent = replace(self.intent, overrides=kept)
            events = _dropped(self.intent, intent, f"unset by {manner.by}")
            return await self._change(intent, manner, events)

    async def drop_expired(self) -> None:
        """Forget the overrides whose time is over. One that the file cannot do without any
        more stays, for good, and is told."""
        if not expired(self.intent.overrides, self._clock.now()):
            return
        async with self._changing:
            old = expired(self.intent.overrides, self._clock.now())
            kept = tuple(one for one in self.intent.overrides if one not in old)
            intent = replace(self.intent, overrides=kept)
            try:
                events = _dropped(self.intent, intent, "its time is over")
                read = await self._read(intent.text, intent.origin, intent.overrides)
                self._take(intent, read, Manner(force=True), events)
            except InvalidConfig as error:
                self.refuse_file("the file without its expired overrides", error)
                forever = tuple(
                    msgspec.structs.replace(one, until=None) if one in old else one
                    for one in self.intent.overrides
                )
                self._standing.intent = replace(self.intent, overrides=forever)

    # --- orders -------------------------------------------------------------------------

    async def order(self, names: Sequence[ServerName], admin: Admin, manner: Manner) -> Outcome:
        """Set the administrative state of servers that exist."""
        async with self._changing:
            now = self._clock.now()
            trial = self.world.copy()
            changed = [name for name in names if _give_order(trial, name, admin, manner, now)]
            until = None if manner.until is None else self._clock.to_wall(manner.until)
            events = [Ordered(str(n), admin, manner.by, manner.reason, until) for n in changed]
            return self._finish(trial, {name.service for name in changed}, manner, events, now)

    # --- the one way --------------------------------------------------------------------

    async def _change(
        self, intent: Intent, manner: Manner, events: Sequence[AnyEvent], own: bool = False
    ) -> Outcome:
        read = await self._read(intent.text, intent.origin, intent.overrides)
        known = self._directory.generations()
        if not manner.dry_run and intent.generation not in known:
            keep = self._directory.keep_generation
            await asyncio.to_thread(keep, intent.generation, intent.text)
        return self._take(intent, read, manner, events, own=own)

    def _take(
        self,
        intent: Intent,
        read: Read,
        manner: Manner,
        events: Sequence[AnyEvent],
        *,
        own: bool = False,
        last_override: int = 0,
    ) -> Outcome:
        now = self._clock.now()
        trial = self.world.copy()
        touched = trial.reconfigure(read.config, now)
        changed = tuple(changes(self.world.config, read.config))
        outcome = self._finish(trial, touched, manner, events, now)
        if not manner.dry_run:
            saved = self._standing.saved
            self._standing = Standing(
                trial,
                intent,
                read,
                msgspec.structs.replace(
                    saved,
                    taken=digest(intent.text) if own else saved.taken,
                    last_override=max(last_override, saved.last_override),
                    origins={**saved.origins, intent.generation: intent.origin},
                ),
            )
        return msgspec.structs.replace(
            outcome,
            changed=bool(changed or events),
            changes=changed,
            generation=intent.generation,
            stale=tuple(one.id for one in read.stale),
            warnings=self._warnings(read),
        )

    def _warnings(self, read: Read) -> tuple[str, ...]:
        other = read.config.gateway != self._gateway
        return (*read.warnings, OTHER_GATEWAY) if other else read.warnings

    def _finish(
        self,
        trial: World,
        touched: set[str],
        manner: Manner,
        events: Sequence[AnyEvent],
        now: float,
    ) -> Outcome:
        """Show what `trial` would do, or put it in the place of the world."""
        if not manner.force:
            refuse_if_emptied(self.world, trial, touched, now)
        ops = operations(self.world, trial, touched, now)
        if not manner.dry_run:
            self._standing.world = trial
            self._unsaved = self._intent_unsaved = True
            self._journal.tell(*events)
            self._tell(touched, changed=True)
        return Outcome(
            changed=bool(events),
            dry_run=manner.dry_run,
            generation=self.intent.generation,
            services=tuple(sorted(touched)),
            operations=ops,
        )

    # --- facts --------------------------------------------------------------------------

    def see(self, target: Target, health: Health, evidence: str, asked: bool = False) -> None:
        """Take a verdict of the checks. asked: somebody wanted to know; if it is the same
        as ever, what decided in its time stays the evidence."""
        old = self.world.sightings.get(target)
        changed = old is None or old.health is not health
        if asked and not changed:
            return
        since = self._clock.now() if old is None or changed else old.since
        touched = self.world.see(target, Sighting(health, evidence, since))
        self._unsaved = True
        if changed:
            names = self.world.checked(target)
            self._journal.tell(*(HealthChanged(str(name), health, evidence) for name in names))
            speaks = health is Health.UP
            of = self.world.asked(target)
            self._journal.tell(*(AgentHeard(str(name), speaks, evidence) for name in of))
        self._tell(touched)

    def hear(self, target: Target, report: Report) -> None:
        """Take what an agent said."""
        self._tell(self.world.hear(target, report))

    def turn_away(self, outside: Set[tuple[Frontend, Endpoint]]) -> None:
        """Take what the data path refuses to take."""
        if touched := self.world.turn_away(outside):
            self._tell(touched)

    def calm(self, unrest: Mapping[Frontend, float]) -> None:
        """Take how much of each ring is in transition; a service is as restless as the most
        restless ring of its listens."""
        found: dict[str, float] = {}
        whose = owners(self.world.config.services) if unrest else {}
        for frontend, share in unrest.items():
            if (name := whose.get(frontend)) is not None:
                found[name] = max(share, found.get(name, 0.0))
        known, self.world.unrest = self.world.unrest, found
        touched = {name for name in known.keys() | found if known.get(name) != found.get(name)}
        if touched:
            self._tell(touched & self.world.config.services.keys())

    def _settle(self, touched: set[str]) -> None:
        """Let load have its say on what is touched, before anybody looks at it."""
        for service, before, after in settle(self.world, touched, self._clock.now()):
            self._unsaved = True
            self._journal.tell(*load_changes(service, before, after))

    def remember(self) -> None:
        """Something that is saved changed elsewhere."""
        self._unsaved = True

    def pass_time(self) -> None:
        """Take what time alone changed since this was last called."""
        now = self._clock.now()
        touched, events = pass_time(self.world, self._looked, now)
        self._looked = now
        if touched or events:
            self._unsaved = True
            self._journal.tell(*events)
            self._tell(touched, changed=True)

    @property
    def deadline(self) -> float | None:
        """When time alone changes something in the world, or the state is to be saved."""
        moments = [self.world.deadline(self._looked)]
        if self._unsaved:
            moments.append(self._save_after)
        return min((moment for moment in moments if moment is not None), default=None)

    async def save_intent(self) -> None:
        """Write down what people want, if it is not written yet: before the kernel is told. A
        verdict does not wait for the disk: it is written down when the kernel has it."""
        if self._intent_unsaved:
            await self.save(at_once=True)

    async def save(self, at_once: bool = False) -> None:
        """Write down what is not written yet; not more than once a second, but for `at_once`.

        A state that cannot be written is told and tried again; it does not keep a dead
        server in the schedule.
        """
        async with self._saving:
            early = self._clock.now() < self._save_after
            if not self._unsaved or (early and (self.save_error or not at_once)):
                return
            intent, self._unsaved, self._intent_unsaved = self._intent_unsaved, False, False
            self._save_after = self._clock.now() + SAVE_EVERY
            try:
                await asyncio.to_thread(self._directory.save, self.to_save())
            except OSError as error:
                self._unsaved = True
                self._intent_unsaved = self._intent_unsaved or intent
                self._save_after = self._clock.now() + SAVE_RETRY
                why = f"{self._directory.file}: cannot be written: {error.strerror}"
                if why != self.save_error:
                    self._journal.tell(Trouble("state", why))
                self.save_error = why
            else:
                self.save_error = ""

    def _tell(self, touched: set[str], changed: bool = False) -> None:
        self._settle(touched)
        for listener in self.on_touched:
            listener(touched)
        if changed:
            for hearer in self.on_changed:
                hearer()

    def to_save(self) -> Saved:
        intent, wall = self.intent, self._clock.to_wall
        saved = msgspec.structs.replace(
            self._standing.saved,
            generation=intent.generation,
            overrides=tuple(move_override(one, wall) for one in intent.overrides),
        )
        saved = with_hooks(saved, self.hooks, self._clock)
        return with_facts(saved, self.world, self._clock)


def _dropped(before: Intent, after: Intent, why: str) -> list[AnyEvent]:
    gone = [one for one in before.overrides if one not in after.overrides]
    return [OverrideDropped(one.id, str(one), why) for one in gone]


def _under(overrides: Sequence[Override], outcome: Outcome) -> Outcome:
    """The outcome of taking a file, with what is on top of it: there the file says nothing."""
    on_top = [one for one in overrides if one.id not in outcome.stale]
    told = [
        f"override {one.id} ({one}) is on top of the file (`lbctl unset {one.id}` takes it back)"
        for one in on_top[:MOST_TOLD]
    ]
    if len(on_top) > MOST_TOLD:
        told.append(f"and {len(on_top) - MOST_TOLD} overrides more (`lbctl get overrides`)")
    return msgspec.structs.replace(outcome, warnings=(*outcome.warnings, *told))


def _has(read: Read, path: Path) -> bool:
    """Whether a configuration has the service or server that `path` names."""
    match path:
        case ("services", service):
            return service in read.config.services
        case ("services", service, "servers", server):
            return service in read.config.services and (
                server in read.config.services[service].servers
            )
        case _:
            return False


def _give_order(world: World, name: ServerName, admin: Admin, manner: Manner, now: float) -> bool:
    """Give one server its order; False where it has just that already."""
    old = world.orders.get(name)
    if admin is Admin.READY:
        return world.orders.pop(name, None) is not None
    # The deadline belongs to the server's flows: a later order does not give them longer.
    deadline = now + world.config.services[name.service].drain.timeout
    if old is not None and old.in_force(now):
        deadline = min(deadline, old.deadline)
    new = Order(admin, now, deadline, manner.until, manner.reason, manner.by)
    if old is not None and replace(new, since=old.since) == old:
        return False
    world.orders[name] = new
    return True
