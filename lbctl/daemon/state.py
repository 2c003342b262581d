"""What survives the daemon: the state file and the generations of the configuration.

    STATE/lock                    held while a daemon runs
    STATE/state.json              what people ordered and what checks saw: `Saved`
    STATE/generations/12          the text of each configuration that was taken

Everything is written whole, beside the old file, synced, and renamed over it. Times are
saved as wall clock, since the clock that never steps starts anew with the machine.
"""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

import msgspec

from lbctl.daemon.clock import Clock
from lbctl.daemon.hooks import Key, Past
from lbctl.daemon.overrides import Override
from lbctl.errors import LbctlError, NotFound, NotPermitted
from lbctl.ha.drill import Drill
from lbctl.load import Pool
from lbctl.model import AnyProbe, Endpoint, Server, ServerName, Trigger, Via
from lbctl.world import Leaving, Order, Sighting, Target, World

VERSION = 1
KEPT_GENERATIONS = 20


class Unkept(LbctlError):
    """The state directory does not take, or does not give, a configuration."""


class SavedSighting(msgspec.Struct, frozen=True):
    probe: AnyProbe
    endpoint: str
    sighting: Sighting
    via: Via | None = None


class SavedLeaving(msgspec.Struct, frozen=True):
    name: str
    address: str
    port: int | None
    weight: int
    max_connections: int
    deadline: float


class SavedHook(msgspec.Struct, frozen=True):
    server: str
    trigger: Trigger
    past: Past


class Saved(msgspec.Struct, frozen=True):
    """The state file.

    generation: the one that runs. origins: where each generation came from. taken: SHA-256
    of the daemon's own configuration file when it was last taken. last_override: the
    highest id ever given.
    """

    version: int = VERSION
    generation: int = 0
    origins: Mapping[int, str] = {}
    taken: str = ""
    last_override: int = 0
    overrides: tuple[Override, ...] = ()
    orders: Mapping[str, Order] = {}
    sightings: tuple[SavedSighting, ...] = ()
    leaving: tuple[SavedLeaving, ...] = ()
    newcomers: tuple[str, ...] = ()
    pools: Mapping[str, Pool] = {}
    hooks: tuple[SavedHook, ...] = ()
    drills: tuple[Drill, ...] = ()


def with_facts(saved: Saved, world: World, clock: Clock) -> Saved:
    """`saved` with the facts of `world` that a restart must not forget."""
    wall = clock.to_wall
    return msgspec.structs.replace(
        saved,
        orders={str(name): _move_order(order, wall) for name, order in world.orders.items()},
        sightings=tuple(
            SavedSighting(t.probe, str(t.endpoint), replace(seen, since=wall(seen.since)), t.via)
            for t, seen in world.sightings.items()
        ),
        leaving=tuple(_save_leaving(one, wall(one.deadline)) for one in world.leaving),
        newcomers=tuple(sorted(map(str, world.newcomers))),
        pools={name: pool.moved(wall) for name, pool in world.pools.items()},
    )


def restore_facts(world: World, saved: Saved, clock: Clock) -> None:
    """Put the saved facts into `world`, as far as its configuration still knows them.

    Raises ValueError where a name or an address in them is none.
    """
    moment = clock.from_wall
    names = {
        str(name): name
        for name in (
            ServerName(service, server)
            for service, settings in world.config.services.items()
            for server in settings.servers
        )
    }
    world.orders = {
        names[text]: _move_order(order, moment)
        for text, order in saved.orders.items()
        if text in names
    }
    for one in saved.sightings:
        target = Target(one.probe, Endpoint.parse(one.endpoint, lowest=0), one.via)
        if world.checked(target) or world.asked(target):
            since = moment(one.sighting.since)
            world.sightings[target] = replace(one.sighting, since=since)
    world.leaving = [
        _restore_leaving(one, moment(one.deadline))
        for one in saved.leaving
        if ServerName.parse(one.name).service in world.config.services
    ]
    world.newcomers = {names[text] for text in saved.newcomers if text in names}
    known = world.config.services
    world.pools = {n: pool.moved(moment) for n, pool in saved.pools.items() if n in known}


def with_hooks(saved: Saved, past: Mapping[Key, Past], clock: Clock) -> Saved:
    hooks = (
        SavedHook(str(key.name), key.trigger, one.moved(clock.to_wall))
        for key, one in past.items()
        if one != Past()
    )
    return msgspec.structs.replace(saved, hooks=tuple(hooks))


def restore_hooks(saved: Saved, clock: Clock) -> dict[Key, Past]:
    return {
        Key(ServerName.parse(one.server), one.trigger): one.past.moved(clock.from_wall)
        for one in saved.hooks
    }


def move_override(override: Override, to: Callable[[float], float]) -> Override:
    until = None if override.until is None else to(override.until)
    return msgspec.structs.replace(override, since=to(override.since), until=until)


def _move_order(order: Order, to: Callable[[float], float]) -> Order:
    until = None if order.until is None else to(order.until)
    return replace(order, since=to(order.since), deadline=to(order.deadline), until=until)


def _save_leaving(one: Leaving, deadline: float) -> SavedLeaving:
    server = one.server
    return SavedLeaving(
        str(one.name),
        str(server.address),
        server.port,
        server.weight,
        server.max_connections,
        deadline,
    )


def _restore_leaving(one: SavedLeaving, deadline: float) -> Leaving:
    server = Server(ip_address(one.address), one.port, one.weight, one.max_connections)
    return Leaving(ServerName.parse(one.name), server, deadline)


# --- the directory ----------------------------------------------------------------------


@dataclass(frozen=True)
class StateDirectory:
    """The files. Every write is whole or not at all."""

    path: Path

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the directory, and keep every other daemon out of it."""
        try:
            (self.path / "generations").mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            kind = NotPermitted if isinstance(error, PermissionError) else LbctlError
            raise kind(
                f"{self.path}: cannot keep state here: {error.strerror}",
                "run as root, or give --state a directory that is yours",
            ) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise LbctlError(
                f"{self.path}: another daemon keeps its state here",
                "stop it, or give this one another --state",
            ) from None
        try:
            yield
        finally:
            os.close(handle)

    @property
    def file(self) -> Path:
        return self.path / "state.json"

    def load(self) -> tuple[Saved | None, str]:
        """The state, or why there is none to be had."""
        try:
            data = self.file.read_bytes()
        except FileNotFoundError:
            return None, ""
        except OSError as error:
            return None, error.strerror or str(error)
        try:
            saved = msgspec.json.decode(data, type=Saved)
        except (msgspec.MsgspecError, ValueError) as error:
            return None, str(error)
        if saved.version != VERSION:
            return None, f"version {saved.version}; this lbctl writes version {VERSION}"
        return saved, ""

    def set_aside(self) -> Path:
        """Keep an unreadable state file under another name."""
        aside = self.file.with_suffix(".unreadable")
        self.file.replace(aside)
        return aside

    def save(self, saved: Saved) -> None:
        _write(self.file, msgspec.json.format(msgspec.json.encode(saved), indent=1))

    @property
    def _generations(self) -> Path:
        return self.path / "generations"

    def generation(self, number: int) -> bytes:
        """The text of one. Raises NotFound, or Unkept."""
        path = self._generations / str(number)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise NotFound(
                f"generation {number}: it is not kept",
                f"kept are: {', '.join(map(str, self.generations())) or 'none'}",
            ) from None
        except OSError as error:
            raise Unkept(f"{path}: cannot be read: {error.strerror}") from None

    def generations(self) -> list[int]:
        """The numbers of those kept, oldest first. Raises Unkept."""
        try:
            names = [path.name for path in self._generations.iterdir()]
        except FileNotFoundError:
            return []  # somebody tidied up
        except OSError as error:
            raise Unkept(f"{self._generations}: cannot be read: {error.strerror}") from None
        return sorted(int(name) for name in names if name.isdigit())

    def keep_generation(self, number: int, text: bytes) -> None:
        """Keep this one; forget the oldest beyond `KEPT_GENERATIONS`. Raises Unkept."""
        path = self._generations / str(number)
        try:
            self._generations.mkdir(exist_ok=True)
            _write(path, text)
            for old in self.generations()[:-KEPT_GENERATIONS]:
                (self._generations / str(old)).unlink()
        except OSError as error:
            raise Unkept(
                f"{path}: generation {number} cannot be kept: {error.strerror}",
                "nothing was changed; make room there, or start the daemon with another --state",
            ) from None


def digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _write(path: Path, data: bytes) -> None:
    fresh = path.with_name(f".{path.name}.new")
    try:
        with open(fresh, "wb", opener=_owner_only) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)  # half a file on a full disk helps nobody
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _owner_only(path: str, flags: int) -> int:
    """A file that may hold what a configuration keeps secret."""
    return os.open(path, flags, 0o600)
