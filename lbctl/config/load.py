"""From text to a `Config`, step by step; every fault of every step, in the file's order.

text -> document -> + overrides -> long form -> + defaults -> sections -> model
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from lbctl.config import build, cross, ha
from lbctl.config.document import Node, Unreadable, read
from lbctl.config.fault import Fault, Place, clip, did_you_mean, show
from lbctl.config.fields import frontend
from lbctl.config.known import Known, Terms, again, notes_between
from lbctl.config.limits import MAX_FAULTS
from lbctl.config.patch import Patch, apply
from lbctl.config.schema import API_VERSION, Defaults, File
from lbctl.config.shorthand import Path, Raw, inherit, write_out
from lbctl.config.source import Source
from lbctl.config.validate import validate
from lbctl.dataplane.capabilities import unsupported
from lbctl.errors import InvalidConfig
from lbctl.model import Config, Datapath, Frontend, Service


def load(
    text: str | bytes,
    name: str,
    node: str | None,
    patches: Sequence[Patch],
    datapath: Datapath | None = None,
    tick: float | None = None,
    known: Known | None = None,
) -> tuple[Known, tuple[Patch, ...]]:
    """What was found, and the stale patches. Raises InvalidConfig."""
    terms = Terms(text, name, node, tick)
    if known is not None and known.terms == terms and datapath is None:
        found_again = again(known, patches)
        if found_again is not None:
            return found_again
    try:
        root, faults = read(text)
    except Unreadable as error:
        raise InvalidConfig([Source(name, Node(Place(1, 1), None), ()).say(error.fault)]) from None
    plain = root.plain()
    raw, stale = apply(plain, patches)
    kept = tuple(patch for patch in patches if patch not in stale)
    source = Source(name, root, kept)
    if (fault := _foreign(raw)) is not None:
        raise InvalidConfig(_said(source, [*faults, fault]))
    assert isinstance(raw, dict)
    document = write_out(raw)
    file, inherited, found = _sections(document)
    faults += found
    config, found = _config(file, node, faults) if file is not None else (None, [])
    faults += [*found, *cross.overlaps(_listens(document))]
    if config is not None and tick is not None:
        faults += ha.unfenceable(config.routers, tick)
    if config is not None and datapath is not None and not faults:
        own = config.gateway.datapath
        lacking = unsupported(config, own if datapath is Datapath.AUTO else datapath)
        faults = [Fault(path, text) for path, text in lacking]
    if faults or config is None:
        raise InvalidConfig(_said(source, faults))
    between = tuple(notes_between(config))
    single = (w for name, one in config.services.items() for w in cross.warnings(name, one))
    notes = (*single, *between)
    said = tuple(_said(source, notes))
    return Known(terms, plain, raw, kept, inherited, config, notes, between, said), stale


def _foreign(raw: Raw) -> Fault | None:
    """Why this is no file of ours at all; its other faults would only be noise."""
    write = f"write apiVersion: {API_VERSION}"
    if not isinstance(raw, dict):
        return Fault((), f"is {show(raw)}, not a mapping ({write})")
    if "apiVersion" not in raw:
        near = [key for key in list(raw)[:20] if did_you_mean(key, ["apiVersion"])]
        hint = f"{write} in place of '{clip(near[0])}'" if near else write
        return Fault((), f"has no apiVersion ({hint})", place=Place(1, 1))
    if raw["apiVersion"] != API_VERSION:
        version = show(raw["apiVersion"])
        return Fault(
            ("apiVersion",), f"{version} is not supported (this lbctl reads {API_VERSION})"
        )
    return None


def _sections(
    document: dict[str, Any],
) -> tuple[File | None, dict[str, Raw], list[Fault]]:
    """The file's sections, services with their defaults, and these."""
    written = document.get("defaults", {})
    defaults, faults = validate(Defaults, written, ("defaults",))
    services = document.get("services")
    sound: dict[str, Raw] = {}
    if defaults is not None and isinstance(services, dict):
        # Only what is sound is taken over, so a fault of the defaults is said once.
        faulty = {fault.path[1] for fault in faults}
        sound = {key: written[key] for key in defaults.model_fields_set - faulty}
        services = {
            name: inherit(sound, one) if isinstance(one, dict) else one
            for name, one in services.items()
        }
    rest = {key: value for key, value in document.items() if key != "defaults"}
    file, found = validate(File, rest if services is None else {**rest, "services": services})
    return file, sound, faults + found


def _listens(document: dict[str, Any]) -> Iterator[tuple[Path, Frontend]]:
    """Every listen that can be read, also of services that otherwise cannot."""
    services = document.get("services")
    for name, service in services.items() if isinstance(services, dict) else ():
        listens = service.get("listen") if isinstance(service, dict) else None
        for index, text in enumerate(listens if isinstance(listens, list) else ()):
            with suppress(ValueError):  # said already, by the section's model
                yield ("services", name, "listen", index), frontend(text)


def _config(
    file: File, node: str | None, before: Sequence[Fault]
) -> tuple[Config | None, list[Fault]]:
    """The configuration, if there can be one, and what is wrong with it as a whole."""
    services = build.services(file)
    faults = [*cross.among(services), *_consistent(services, before)]
    if any(fault.path[:1] in (("gateway",), ("gateways",)) for fault in before):
        return None, faults
    try:
        gateway = build.gateway(file, node)
    except build.NoGateway as error:
        return None, faults + error.faults
    names = list(file.gateways)
    here = node or (names[0] if len(names) == 1 else "")
    routers = ha.routers(file.virtual_routers, gateway, here)
    faults += cross.passage(services, gateway)
    if not any(fault.path[:1] == (ha.AT,) for fault in before):
        faults += ha.wrong(
            file.virtual_routers, routers, names, services, gateway.replication is not None
        )
    return Config(gateway, services, routers), faults


def _consistent(services: dict[str, Service], faults: Sequence[Fault]) -> Iterable[Fault]:
    """Faults within services whose settings are all known: a setting that could not be
    read has its default, and what that clashes with says nothing."""
    torn = {fault.path[1] for fault in faults if fault.path[:1] == ("services",) and _sets(fault)}
    if any(fault.path[:1] == ("defaults",) for fault in faults):
        return
    for name, service in services.items():
        if name not in torn:
            yield from cross.within(name, service)


def _sets(fault: Fault) -> bool:
    """Whether the fault is in a service's settings, not in one of its servers."""
    return len(fault.path) > 1 and (len(fault.path) < 4 or fault.path[2] != "servers")


def _said(source: Source, faults: Iterable[Fault]) -> list[str]:
    ordered = sorted(dict.fromkeys(faults), key=source.order)
    rest = [f"and more faults than these {MAX_FAULTS}"] if len(ordered) > MAX_FAULTS else []
    return [*(source.say(fault) for fault in ordered[:MAX_FAULTS]), *rest]
