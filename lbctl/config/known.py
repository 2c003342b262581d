"""A file that was found good, read again under other overrides: only what they touch is read.

    first = parse(text, patches=[])                       # the whole file
    again = parse(text, patches=[one], known=first.known) # one service of it

What comes out is what reading the whole file would give. Where that cannot be said without
reading it (something is wrong, or would be warned of in other words), nothing comes out, and
the whole file is read: faults are said in one place only.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lbctl.config import build, cross
from lbctl.config.fault import Fault
from lbctl.config.ha import without_copy
from lbctl.config.patch import JSON, Patch, apply
from lbctl.config.schema import API_VERSION, File
from lbctl.config.shorthand import Path, Raw, inherit, write_out
from lbctl.config.source import said_by
from lbctl.config.validate import validate
from lbctl.config.wayback import without_way_back
from lbctl.differing import differing
from lbctl.model import Config, Frontend, Scheduler, Server, Service

_USUAL = Service(())


@dataclass(frozen=True)
class Terms:
    """What a file was read for; `lbctl.config.parse` says what each is."""

    text: str | bytes
    name: str
    node: str | None
    tick: float | None


@dataclass(frozen=True)
class Known:
    """What an earlier reading of a file found.

    raw: the document. laid: the same under `patches`, those that changed something. defaults:
    what services take from there, in long form. notes: what was warned of; paces: those of
    them between services.
    """

    terms: Terms
    raw: JSON
    laid: dict[str, Raw]
    patches: tuple[Patch, ...]
    defaults: Mapping[str, Raw]
    config: Config
    notes: tuple[Fault, ...]
    between: tuple[Fault, ...]
    warnings: tuple[str, ...]


def again(known: Known, patches: Sequence[Patch]) -> tuple[Known, tuple[Patch, ...]] | None:
    """The file under `patches`, and those that are stale; None: read it as a whole."""
    laid, stale = apply(known.raw, patches)
    assert isinstance(laid, dict)
    old, new = known.laid.get("services"), laid.get("services")
    if not (isinstance(old, dict) and isinstance(new, dict) and _same_rest(known.laid, laid)):
        return None
    names = differing(old, new, _same)
    gone = names - new.keys()
    if gone and "virtual_routers" in laid:
        return None  # which may watch one of them, also for the other gateway
    fresh = _services({name: new[name] for name in new if name in names}, known.defaults)
    if fresh is None:
        return None
    services = {**dict.fromkeys(new, _USUAL), **known.config.services, **fresh}
    for name in gone:
        del services[name]
    config = replace(known.config, services=services)
    between = known.between
    if gone or not _alike_to_others(known.config.services, fresh):
        if any(_clashes(config)):
            return None
        between = tuple(notes_between(config))
    kept = tuple(patch for patch in patches if patch not in stale)
    about = gone | fresh.keys()
    before = tuple(note for note in known.notes if _is_about(note, about))
    own = (w for name, one in fresh.items() for w in cross.warnings(name, one))
    after = (*own, *(note for note in between if _is_about(note, about)))
    same = set(before) == set(after) and between == known.between
    if not same or any(said_by(known.patches, n) != said_by(kept, n) for n in before):
        return None
    return replace(known, laid=laid, patches=kept, config=config), stale


def _same(one: Raw, other: Raw) -> bool:
    """Alike to the letter: `1`, `1.0` and `true` are equal, and not the same in a file."""
    return repr(one) == repr(other)


def _same_rest(one: Mapping[str, Raw], other: Mapping[str, Raw]) -> bool:
    """Whether two documents differ in nothing but their services."""
    first, second = ({k: v for k, v in it.items() if k != "services"} for it in (one, other))
    return not differing(first, second, _same)


def _services(touched: Mapping[str, Raw], defaults: Mapping[str, Raw]) -> dict[str, Service] | None:
    """The services of these sections; None where there is a fault in one."""
    written = write_out({"services": dict(touched)})["services"]
    if not all(isinstance(one, dict) for one in written.values()):
        return None
    sections: dict[str, Any] = {name: inherit(defaults, one) for name, one in written.items()}
    file, faults = validate(File, {"apiVersion": API_VERSION, "services": sections})
    if file is None or faults:
        return None
    services = build.services(file)
    if any(fault for name, one in services.items() for fault in cross.within(name, one)):
        return None
    return services


def _alike_to_others(old: Mapping[str, Service], fresh: Mapping[str, Service]) -> bool:
    """Whether services are what they were in all that one service can see of another."""
    return all(name in old and _face(old[name]) == _face(one) for name, one in fresh.items())


def _face(service: Service) -> Service:
    """A service without what is its own affair."""
    return replace(
        service,
        servers={key: Server(one.address, one.port) for key, one in service.servers.items()},
        scheduler=Scheduler("rr"),
        persistence=_USUAL.persistence,
        drain=_USUAL.drain,
        overload=_USUAL.overload,
        slow_start=_USUAL.slow_start,
        quorum=_USUAL.quorum,
    )


def notes_between(config: Config) -> Iterator[Fault]:
    """Warnings of services together, and of them and the virtual routers."""
    yield from cross.paces(config)
    yield from without_way_back(config)
    yield from without_copy(config)


def _clashes(config: Config) -> Iterator[Fault]:
    """Faults between services, and between them and the gateway."""
    yield from cross.overlaps(_listens(config.services))
    yield from cross.among(config.services)
    yield from cross.passage(config.services, config.gateway)


def _listens(services: Mapping[str, Service]) -> Iterator[tuple[Path, Frontend]]:
    for name, service in services.items():
        for index, one in enumerate(service.listens):
            yield ("services", name, "listen", index), one


def _is_about(note: Fault, services: set[str]) -> bool:
    paths = (note.path, note.also or ())
    return any(path[:1] == ("services",) and path[1] in services for path in paths)
