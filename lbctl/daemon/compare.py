"""What is different between two configurations, line by line: pure."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass

import msgspec


def changes(before: object, after: object, path: str = "") -> Iterator[str]:
    """Each difference as `services.web.scheduler: rr -> wrr`, in the order of the fields."""
    if before == after:
        return
    old, new = _parts(before), _parts(after)
    if old is None or new is None or type(before) is not type(after):
        yield f"{path}: {_show(before)} -> {_show(after)}"
        return
    for key in [*old, *(key for key in new if key not in old)]:
        below = f"{path}.{key}" if path else str(key)
        if key not in new:
            yield f"{below}: removed"
        elif key not in old:
            yield f"{below}: added"
        else:
            yield from changes(old[key], new[key], below)


def _parts(value: object) -> Mapping[str, object] | None:
    """What a value consists of, where it is not shown as a whole."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    # A value with a text form of its own (a scheduler, a listen) is one thing.
    if is_dataclass(value) and type(value).__str__ is object.__str__:
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return None


def _show(value: object) -> str:
    if isinstance(value, tuple | list | frozenset):
        return ", ".join(map(_show, value)) or "none"
    return "none" if value is None or value == "" else str(value)
