"""What is different between two configurations, line by line and in the file's words: pure."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from typing import TypeVar

from lbctl.config.duration import show_duration
from lbctl.config.ha import written as written_router
from lbctl.config.written import Section, written_gateway, written_service
from lbctl.differing import differing
from lbctl.model import Config, Drain, HttpProbe, Router, Server, Service, Timing

# What holds where a section says nothing, for those that people change.
USUAL: Mapping[str, Section] = {
    key: {
        **{name: getattr(HttpProbe(), name) for name in ("path", "method")},
        **{name: getattr(Timing(), name) for name in ("fall", "rise")},
        **{
            name: show_duration(getattr(Timing(), name))
            for name in ("interval", "timeout", "fast_interval")
        },
    }
    for key in ("check", "agent")
} | {"drain": {key: show_duration(getattr(Drain(), key)) for key in ("timeout", "quiet")}}
DEFAULT = "the default"
T = TypeVar("T")


def changes(before: Config, after: Config) -> Iterator[str]:
    """Each difference as `services.web.scheduler: rr -> wrr`."""
    if before.gateway != after.gateway:
        old, new = written_gateway(before.gateway), written_gateway(after.gateway)
        yield from _sections(old, new, "gateway")
    yield from _named(before.services, after.services, "services", _services)
    yield from _named(before.routers, after.routers, "virtual_routers", _routers)


def _named(
    before: Mapping[str, T],
    after: Mapping[str, T],
    path: str,
    differences: Callable[[T, T, str], Iterator[str]],
) -> Iterator[str]:
    """Objects by name: those that are there on both sides are looked into."""
    names = differing(before, after)
    for name in [name for name in {**before, **after} if name in names]:
        below = f"{path}.{name}"
        if name not in after:
            yield f"{below}: removed"
        elif name not in before:
            yield f"{below}: added"
        else:
            yield from differences(before[name], after[name], below)


def _services(before: Service, after: Service, path: str) -> Iterator[str]:
    yield from _named(before.servers, after.servers, f"{path}.servers", _servers)
    # Without its servers: there may be thousands, and they were compared.
    old, new = (written_service(replace(one, servers={})) for one in (before, after))
    yield from _sections(old, new, path)


def _servers(before: Server, after: Server, path: str) -> Iterator[str]:
    old, new = ({f.name: getattr(one, f.name) for f in fields(one)} for one in (before, after))
    yield from _sections(old, new, path)


def _routers(before: Router, after: Router, path: str) -> Iterator[str]:
    yield from _sections(written_router(before), written_router(after), path)


def _sections(before: Section, after: Section, path: str) -> Iterator[str]:
    """What two sections of a file say differently. A key that is missing has its default."""
    usual = USUAL.get(path.rpartition(".")[2], {})
    for key in [*before, *(key for key in after if key not in before)]:
        old, new = (one.get(key, usual.get(key, DEFAULT)) for one in (before, after))
        below = f"{path}.{key}"
        if all(one is DEFAULT or isinstance(one, dict) for one in (old, new)):
            yield from _sections(_keys(old), _keys(new), below)
        elif old != new:
            yield f"{below}: {_show(old)} -> {_show(new)}"


def _keys(section: object) -> Section:
    """Of a section that is not there: none."""
    return section if isinstance(section, dict) else {}


def _show(value: object) -> str:
    """As a file says it, on one line."""
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "{" + ", ".join(f"{key}: {_show(one)}" for key, one in value.items()) + "}"
        case list() | tuple():
            return ", ".join(map(_show, value)) or "none"
        case None | "":
            return "none"
        case _:
            return str(value)
