"""From text to a `Config`, step by step; every fault of every step, in the file's order.

text -> document -> + overrides -> long form -> + defaults -> sections -> model
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from lbctl.config import build, cross
from lbctl.config.document import Node, Unreadable, read
from lbctl.config.fault import Fault, Place, did_you_mean, printable, show, show_path
from lbctl.config.fields import frontend
from lbctl.config.limits import MAX_FAULTS
from lbctl.config.patch import Patch, apply
from lbctl.config.schema import API_VERSION, Defaults, File
from lbctl.config.shorthand import Path, Raw, inherit, write_out
from lbctl.config.validate import validate
from lbctl.errors import InvalidConfig
from lbctl.model import Config, Frontend, Service


class Source:
    """Where values came from: a place in the file, or an override."""

    def __init__(self, name: str, root: Node, patches: Sequence[Patch]) -> None:
        self._name = name
        self._root = root
        self._patches = patches

    def say(self, fault: Fault) -> str:
        """The fault as one line: `FILE:LINE:COLUMN: PATH: text`."""
        where, text = self._where(fault), fault.text
        if fault.also is not None:
            there = Fault(fault.also, "")
            place = "" if self._patch(fault.also) else f" in {self._where(there)}"
            text += f"; see {show_path(fault.also)}{place}"
        if (gone := self._deleted(fault.path)) is not None:
            text += f" (an override deletes {show_path(gone.path)})"
        parts = [where, show_path(fault.path)] if fault.path else [where]
        joined = " ".join(parts) if where == "override" else ": ".join(parts)
        return printable(f"{joined}: {text}" if fault.path else f"{joined}: the file {text}")

    def order(self, fault: Fault) -> Place:
        return fault.place or self._place(fault)

    def _where(self, fault: Fault) -> str:
        if fault.place is None and self._patch(fault.path) is not None:
            return "override"
        line, column = fault.place or self._place(fault)
        return f"{self._name}:{line}:{column}"

    def _patch(self, path: Path) -> Patch | None:
        """The last override that gave the value at `path`."""
        found = [p for p in self._patches if p.value is not None and _covers(p.path, path)]
        return found[-1] if found else None

    def _place(self, fault: Fault) -> Place:
        if self._inherits(fault.path):
            return self._root.find(("defaults", *fault.path[2:]), fault.on_key)[0]
        return self._root.find(fault.path, fault.on_key)[0]

    def _inherits(self, path: Path) -> bool:
        """Whether the value at `path` of a service stands in `defaults`."""
        if path[:1] != ("services",) or len(path) < 3:
            return False
        theirs = self._root.find(("defaults", *path[2:]))[1] - 1
        return theirs == len(path) - 2 and self._root.find(path)[1] < len(path)

    def _deleted(self, path: Path) -> Patch | None:
        return next(
            (p for p in self._patches if p.value is None and p.path[:-1] == path and path), None
        )


def _covers(patch: tuple[str, ...], path: Path) -> bool:
    return path[: len(patch)] == patch


def load(
    text: str | bytes, name: str, node: str | None, patches: Sequence[Patch]
) -> tuple[Config, tuple[Patch, ...], tuple[str, ...]]:
    """The configuration, the stale patches, and the warnings. Raises InvalidConfig."""
    try:
        root, faults = read(text)
    except Unreadable as error:
        raise InvalidConfig([Source(name, Node(Place(1, 1), None), ()).say(error.fault)]) from None
    raw, stale = apply(root.plain(), patches)
    source = Source(name, root, [patch for patch in patches if patch not in stale])
    if (fault := _foreign(raw)) is not None:
        raise InvalidConfig(_said(source, [*faults, fault]))
    assert isinstance(raw, dict)
    document = write_out(raw)
    file, found = _sections(document)
    faults += found
    config = _config(file, node, faults) if file is not None else None
    faults += cross.overlaps(_listens(document))
    if faults or config is None:
        raise InvalidConfig(_said(source, faults))
    notes = [w for name, one in config.services.items() for w in cross.warnings(name, one)]
    return config, stale, tuple(_said(source, notes))


def _foreign(raw: Raw) -> Fault | None:
    """Why this is no file of ours at all; its other faults would only be noise."""
    write = f"write apiVersion: {API_VERSION}"
    if not isinstance(raw, dict):
        return Fault((), f"is {show(raw)}, not a mapping ({write})")
    if "apiVersion" not in raw:
        near = [key for key in raw if did_you_mean(key, ["apiVersion"])]
        hint = f"did you mean it by '{near[0]}'? {write}" if near else write
        return Fault((), f"has no apiVersion ({hint})", place=Place(1, 1))
    if raw["apiVersion"] != API_VERSION:
        version = show(raw["apiVersion"])
        return Fault(
            ("apiVersion",), f"{version} is not supported (this lbctl reads {API_VERSION})"
        )
    return None


def _sections(document: dict[str, Any]) -> tuple[File | None, list[Fault]]:
    """The file's sections, services with their defaults."""
    written = document.get("defaults", {})
    defaults, faults = validate(Defaults, written, ("defaults",))
    services = document.get("services")
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
    return file, faults + found


def _listens(document: dict[str, Any]) -> Iterator[tuple[Path, Frontend]]:
    """Every listen that can be read, also of services that otherwise cannot."""
    services = document.get("services")
    for name, service in services.items() if isinstance(services, dict) else ():
        listens = service.get("listen") if isinstance(service, dict) else None
        for index, text in enumerate(listens if isinstance(listens, list) else ()):
            with suppress(ValueError):  # said already, by the section's model
                yield ("services", name, "listen", index), frontend(text)


def _config(file: File, node: str | None, faults: list[Fault]) -> Config | None:
    """The configuration; what is wrong with it as a whole is added to `faults`."""
    known, missing = build.gateways(file)
    broken = any(fault.path[:1] in (("gateway",), ("gateways",)) for fault in faults)
    if not broken:
        faults += missing
    services = build.services(file)
    faults += [*cross.among(services), *_consistent(services, faults)]
    if broken or missing:
        return None
    try:
        return Config(build.choose(known, node), services)
    except build.NoGateway as error:
        faults.append(error.fault)
        return None


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
    said = [source.say(fault) for fault in ordered[:MAX_FAULTS]]
    return (
        [*said, f"and more faults than these {MAX_FAULTS}"] if len(ordered) > MAX_FAULTS else said
    )
