"""Short forms of the file, written out; and what a service takes from `defaults`.

Both work on the plain document, before validation, and pass on unchanged whatever they do
not know: saying what is wrong with it is validation's part.
"""

from collections.abc import Mapping
from typing import Any

TIMING = ("interval", "timeout", "fall", "rise", "jitter", "fast_interval")
ANY_CHECK = ("type", "port", "address", *TIMING)  # the keys that every type of check has

KEY_BY_KEY = ("check", "drain", "persistence", "agent", "overload", "quorum")

Path = tuple[str | int, ...]
Raw = Any  # a part of the document that nothing has checked yet


def long_form(path: Path, value: Raw) -> Raw:
    """The long form of the value at `path`, if it has one and this is the short one.

    Only the value itself: what lies inside it is left to the call for its own path.
    """
    match path:
        case ("services", _, "servers", _) | (*_, "sorry") if isinstance(value, str):
            return {"address": value}
        case (*_, "check") | (*_, "tunnel") if isinstance(value, str):
            return {"type": value}
        case (*_, "persistence") if is_duration(value) and value != "none":
            return {"timeout": value}
        case (*_, "agent") if isinstance(value, str) and value != "none":
            return {"speaks": value}
        case (*_, "quorum") if isinstance(value, int) and not isinstance(value, bool):
            return {"servers": value}
        case (*_, "on_down" | "on_up" | "on_overload") if isinstance(value, (str, list)):
            return {"run": value}
        case (*_, "listen" | "back" | "direct" | "probe") if isinstance(value, str):
            return [value]
        case _:
            return value


def is_duration(value: object) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)


def write_out(raw: dict[str, Raw]) -> dict[str, Raw]:
    """The document with every short form written out; `raw` is not changed."""
    document = dict(raw)
    if isinstance(defaults := raw.get("defaults"), dict):
        document["defaults"] = _section(("defaults",), defaults)
    if isinstance(gateway := raw.get("gateway"), dict):
        document["gateway"] = _section(("gateway",), gateway)
    for group in ("gateways", "services"):
        if isinstance(members := raw.get(group), dict):
            document[group] = {name: _section((group, name), one) for name, one in members.items()}
    return document


def _section(path: Path, section: Raw) -> Raw:
    if not isinstance(section, dict):
        return section
    written = {key: long_form((*path, key), value) for key, value in section.items()}
    if path[0] == "services" and isinstance(servers := written.get("servers"), dict):
        at = (*path, "servers")
        written["servers"] = {key: long_form((*at, key), one) for key, one in servers.items()}
    return written


def inherit(defaults: Mapping[str, Raw], service: Mapping[str, Raw]) -> dict[str, Raw]:
    """A service (in long form) with what it takes from `defaults`.

    What `KEY_BY_KEY` names is taken key by key, the rest whole. A check of
    another type takes the keys that every type has; a tunnel goes to services in mode
    `tun` only, a sorry server to those whose last resort it is.
    """
    merged = {**defaults, **service}
    for key in KEY_BY_KEY:
        theirs, own = defaults.get(key), service.get(key)
        if isinstance(theirs, dict) and isinstance(own, dict):
            merged[key] = _inherit_check(theirs, own) if key == "check" else {**theirs, **own}
    if merged.get("mode") != "tun" and "tunnel" not in service:
        merged.pop("tunnel", None)
    if merged.get("last_resort") != "sorry" and "sorry" not in service:
        merged.pop("sorry", None)
    return merged


def _inherit_check(theirs: Mapping[str, Raw], own: Mapping[str, Raw]) -> dict[str, Raw]:
    if own.get("type") == "none":
        return dict(own)
    if "type" not in own and theirs.get("type") == "none":
        return dict(own)
    if own.get("type", theirs.get("type", "tcp")) == theirs.get("type", "tcp"):
        return {**theirs, **own}
    return {**{key: theirs[key] for key in ANY_CHECK if key in theirs}, **own}
