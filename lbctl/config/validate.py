"""A section of the document through its model: every fault in it, and what is left.

pydantic finds all faults of a section at once, or else returns it. To check what is sound
in a section that is not, the faulty values are cut out and the rest is read again.
"""

import re
from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from lbctl.config.fault import Fault, did_you_mean, show
from lbctl.config.limits import MAX_FAULTS
from lbctl.config.schema import CHECKS, check_type, keys_at
from lbctl.config.shorthand import Path, Raw

_Section = TypeVar("_Section", bound=BaseModel)

_SHAPES = {
    "model_type": "a mapping",
    "dict_type": "a mapping",
    "list_type": "a list",
    "string_type": "text (put it in quotes)",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "a boolean (write true or false)",
    "finite_number": "a number",
    "model_attributes_type": "a mapping",
}
_BOUNDS = {
    "greater_than_equal": ("small", "at least", "ge"),
    "less_than_equal": ("large", "at most", "le"),
}
_WRITE = {
    "address": "write address: 198.51.100.11",
    "listen": "write listen: ADDRESS:PORT/PROTO",
    "type": "write type: tcp",
}


def validate(
    model: type[_Section],
    raw: Raw,
    at: Path = (),
) -> tuple[_Section | None, list[Fault]]:
    """`raw` as a `model`, and its faults; `at` is where it stands in the file.

    Where there are faults the section is what is left without the faulty values (they
    have their defaults), or None if nothing is.
    """
    faults: list[Fault] = []
    while True:
        try:
            return model.model_validate(raw), faults
        except ValidationError as error:
            errors = error.errors(include_url=False)
        if not faults:
            faults = [_fault(raw, one, at) for one in errors[: MAX_FAULTS + 1]]
        paths = {_path(one) for one in errors}
        if () in paths:
            return None, faults
        raw = _without(raw, paths)


def _path(error: ErrorDetails) -> Path:
    """What is at fault: pydantic's location without the names of union members and the
    like; of a missing key, the section it is missing from."""
    loc = list(error["loc"])
    if loc and loc[-1] == "[key]":
        loc.pop()
    for step, part in enumerate(loc):
        # the tag of the check's type; a service may be named `check`
        if part == "check" and loc[step - 1 : step] not in (["services"], ["servers"]):
            del loc[step + 1 : step + 2]
            break
    return tuple(loc[:-1] if error["type"] == "missing" else loc)


def _fault(raw: Raw, error: ErrorDetails, at: Path) -> Fault:
    path, kind = _path(error), error["type"]
    on_key = kind == "extra_forbidden" or error["loc"][-1:] == ("[key]",)
    if kind == "extra_forbidden":
        return Fault((*at, *path), _unknown_key(raw, path, at), on_key)
    if kind == "missing":
        return Fault((*at, *path), _missing(str(error["loc"][-1])), on_key=True)
    return Fault((*at, *path), _text(error, at + path), on_key)


def _unknown_key(raw: Raw, path: Path, at: Path) -> str:
    section = raw
    for part in path[:-1]:  # only mappings have keys, so there is one at every step
        section = section[part]
    kind = check_type(section) if "check" in path[-2:-1] else None
    known = keys_at((*at, *path[:-1]), kind if kind in CHECKS else None)
    if kind in CHECKS and (others := [k for k, c in CHECKS.items() if path[-1] in c.model_fields]):
        return f"is not for a {kind} check (write type: {others[0]}, or remove it)"
    whose = f"unknown key of a {kind} check" if kind else "unknown key"
    hint = did_you_mean(str(path[-1]), known) or f"known: {', '.join(known)}"
    return f"{whose} ({hint})" if known else whose


def _missing(key: str) -> str:
    if key == "servers":
        return "has no servers: an empty service (write at least one under servers)"
    return f"'{key}' is missing" + (f" ({_WRITE[key]})" if key in _WRITE else "")


def _text(error: ErrorDetails, path: Path) -> str:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind in _SHAPES:
        return f"{show(value)} is not {_SHAPES[kind]}"
    if kind in _BOUNDS:
        wrong, bound, key = _BOUNDS[kind]
        return f"{show(value)} is too {wrong} ({bound} {context[key]})"
    if kind in ("enum", "literal_error"):
        return _one_of(value, re.findall("'([^']*)'", context["expected"]))
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return _no_check(value)
    if kind == "too_short":
        return _empty(path)
    if error["loc"][-1:] == ("[key]",) and kind in ("string_pattern_mismatch", "string_too_long"):
        return "is not a name (a-z, 0-9 and . _ - inside, at most 63 characters)"
    return f"{show(value)}: {error['msg']}"


def _one_of(value: object, known: list[str]) -> str:
    near = did_you_mean(value, known) if isinstance(value, str) else ""
    return f"{show(value)} is not one of {', '.join(known)}" + (f" ({near})" if near else "")


def _no_check(value: object) -> str:
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind is None:
        return f"{show(value)} is not a check (write tcp, http, none, or a mapping with type)"
    near = did_you_mean(kind, CHECKS) if isinstance(kind, str) else ""
    return f"{show(kind)} is not a type of check ({near or 'one of ' + ', '.join(CHECKS)})"


def _empty(path: Path) -> str:
    if path[-1] == "servers":
        return "an empty service (write at least one server)"
    return "is empty (write at least one, or remove it)"


def _without(raw: Raw, paths: set[Path]) -> Raw:
    """`raw` without the values at `paths`. A list loses all its items: what is left
    would have other places."""
    here = {path[0] for path in paths if len(path) == 1}
    below: dict[str | int, set[Path]] = {}
    for path in paths:
        below.setdefault(path[0], set()).add(path[1:])
    kept = {key: value for key, value in raw.items() if key not in here}
    for key, rest in below.items():
        if key in kept and isinstance(kept[key], dict):
            kept[key] = _without(kept[key], rest)
        else:
            kept.pop(key, None)
    return kept
