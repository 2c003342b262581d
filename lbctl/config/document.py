"""YAML text in, a tree of nodes out, each with its place.

The tree is built from parser events, not by PyYAML's `compose()`: libyaml's composer
recurses in C without a limit and dies of 100,000 opening brackets, and it accepts
duplicate keys. Here nesting and size are bounded while reading, aliases included, so no
input costs more than its length allows.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import yaml

from lbctl.config.fault import Fault, Place, clip
from lbctl.config.limits import MAX_BYTES, MAX_DEPTH, MAX_NODES
from lbctl.config.patch import JSON
from lbctl.config.scalar import Scalar, resolve
from lbctl.config.shorthand import Path

LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader

# What YAML 1.2 allows in a stream (section 5.1), negated.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


_VALUES = (yaml.ScalarEvent, yaml.SequenceStartEvent, yaml.MappingStartEvent)


class _Mark(Protocol):
    """Where PyYAML was; its two parsers each have a class for that. Counted from 0."""

    line: int
    column: int


@dataclass(slots=True)
class Entry:
    """One key of a mapping, with the key's place and the value."""

    key: Place
    node: "Node"


@dataclass(slots=True)
class Node:
    """A value in the file. size and height: of all below it, aliases expanded."""

    place: Place
    value: Scalar | list["Node"] | dict[str, Entry]
    size: int = 1
    height: int = 0

    def plain(self) -> JSON:
        """The value without places. Aliases become copies."""
        match self.value:
            case dict():
                return {key: entry.node.plain() for key, entry in self.value.items()}
            case list():
                return [node.plain() for node in self.value]
            case _:
                return self.value

    def find(self, path: Path, on_key: bool = False) -> tuple[Place, int]:
        """The place of what `path` names, or of the nearest thing around it, and how
        many steps of the path that is."""
        node, place = self, self.place
        for step, part in enumerate(path):
            if isinstance(part, int) and isinstance(node.value, list) and part < len(node.value):
                node = node.value[part]
                place = node.place
            elif isinstance(part, str) and isinstance(node.value, dict) and part in node.value:
                entry = node.value[part]
                node = entry.node
                place = entry.key if on_key or isinstance(node.value, dict) else node.place
            else:
                return place, step
        return place, len(path)


class Unreadable(Exception):
    """The text cannot be read any further."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.text)
        self.fault = fault


def read(text: str | bytes) -> tuple[Node, list[Fault]]:
    """The one document in `text`, and what is wrong with it as a document.

    Raises Unreadable where reading must end, with the one fault that ended it.
    """
    if len(text) > MAX_BYTES:
        raise _hopeless(f"is larger than {MAX_BYTES >> 20} MiB: no configuration is")
    reader = _Reader(_decode(text) if isinstance(text, bytes) else text)
    return reader.document(), reader.faults


def _hopeless(text: str, place: Place = Place(1, 1)) -> Unreadable:  # noqa: B008 -- frozen
    return Unreadable(Fault((), text, place=place))


def _decode(data: bytes) -> str:
    for bom, encoding in ((codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16")):
        if data.startswith(bom):
            raise _hopeless(f"is {encoding} text (save it as UTF-8)")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        place = _place_of(data[: error.start].decode("utf-8"))
        byte = f"0x{data[error.start]:02x}"
        raise _hopeless(f"is not UTF-8 text: byte {byte} (save it as UTF-8)", place) from None


def _place_of(before: str) -> Place:
    return Place(before.count("\n") + 1, len(before) - before.rfind("\n"))


class _Reader:
    """Parser events in, nodes out. Faults that do not stop it collect in `faults`."""

    def __init__(self, text: str) -> None:
        self.faults: list[Fault] = []
        self._text = text
        self._anchors: dict[str, Node] = {}
        self._nodes = 0
        if (found := _UNPRINTABLE.search(self._text)) is not None:
            code = f"U+{ord(found.group()):04X}"
            place = _place_of(self._text[: found.start()])
            raise _hopeless(f"has the control character {code}: not a text file?", place)
        self._events = self._parse()

    def document(self) -> Node:
        next(self._events)  # the start of the stream
        if isinstance(next(self._events), yaml.StreamEndEvent):
            raise _hopeless("is empty (write at least apiVersion and gateway)")
        node = self._node(next(self._events), (), 0)
        next(self._events)  # the end of the document
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            text = "has a second document here (one file is one document)"
            self.faults.append(Fault((), text, place=_start(after)))
        return node

    def _parse(self) -> Iterator[yaml.Event]:
        try:
            yield from yaml.parse(self._text, Loader=LOADER)
        except yaml.MarkedYAMLError as error:
            raise _hopeless(self._syntax(error), _mark(error.problem_mark)) from None
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            raise _hopeless(f"is not YAML: {clip(str(error))}") from None

    def _syntax(self, error: yaml.MarkedYAMLError) -> str:
        text = f"is not YAML: {error.problem}"
        if error.context:
            text += f" ({error.context}"
            text += f" from line {error.context_mark.line + 1})" if error.context_mark else ")"
        mark = error.problem_mark
        lines = self._text.splitlines()
        line = lines[mark.line] if mark is not None and mark.line < len(lines) else ""
        if mark is not None and line[mark.column : mark.column + 1] == "\t":
            text += " (indent with spaces, not tabs)"
        return text

    def _node(self, event: yaml.Event, path: Path, depth: int) -> Node:
        place = _start(event)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), place, path, depth)
        assert isinstance(event, _VALUES)  # the parser's grammar: nothing else starts a value
        self._count(1, path, place)
        if depth > MAX_DEPTH:
            raise Unreadable(Fault(path[:3], f"is nested deeper than {MAX_DEPTH}", place=place))
        if event.tag is not None:
            text = f"has the tag '{clip(event.tag)}' (tags are not known here: remove it)"
            self.faults.append(Fault(path, text, place=place))
        match event:
            case yaml.ScalarEvent():
                plain = event.implicit[0] and event.tag is None
                node = Node(place, resolve(event.value) if plain else event.value)
            case yaml.SequenceStartEvent():
                node = self._sequence(place, path, depth)
            case _:
                node = self._mapping(place, path, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _count(self, nodes: int, path: Path, place: Place) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            text = f"takes the file past {MAX_NODES} values, aliases expanded"
            raise Unreadable(Fault(path[:3], text, place=place))

    def _alias(self, anchor: str, place: Place, path: Path, depth: int) -> Node:
        node = self._anchors.get(anchor)
        if node is None:  # a value that contains itself is not finished, so not known either
            text = f"*{clip(anchor)} names no value before it"
            self.faults.append(Fault(path, text, place=place))
            return Node(place, None)
        self._count(node.size, path, place)
        if depth + node.height > MAX_DEPTH:
            text = f"is nested deeper than {MAX_DEPTH}, aliases expanded"
            raise Unreadable(Fault(path[:3], text, place=place))
        return node

    def _sequence(self, place: Place, path: Path, depth: int) -> Node:
        items: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items)), depth + 1))
        return _branch(place, items, items)

    def _mapping(self, place: Place, path: Path, depth: int) -> Node:
        entries: dict[str, Entry] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key, at = self._key(event, path, depth), _start(event)
            node = self._node(next(self._events), (*path, key or ""), depth + 1)
            if key is None:
                continue
            if key in entries:
                text = f"is written twice (first in line {entries[key].key.line}): keep one"
                self.faults.append(Fault((*path, key), text, place=at))
            else:
                entries[key] = Entry(at, node)
        return _branch(place, entries, [entry.node for entry in entries.values()])

    def _key(self, event: yaml.Event, path: Path, depth: int) -> str | None:
        """The key as it is written: `1` and `true` are names too."""
        place = _start(event)
        if not isinstance(event, yaml.ScalarEvent):
            self._node(event, path, depth + 1)
            self.faults.append(Fault(path, "has a key that is not a word", place=place))
            return None
        if event.value == "<<" and event.implicit[0]:
            text = "merge keys are not known here (use defaults, or an alias for a whole value)"
            self.faults.append(Fault(path, text, place=place))
            return None
        if event.tag is not None or event.anchor is not None:
            text = "is a key with a tag or an anchor (remove it)"
            self.faults.append(Fault((*path, event.value), text, place=place))
        return str(event.value)


def _branch(place: Place, value: list[Node] | dict[str, Entry], below: list[Node]) -> Node:
    size = 1 + sum(node.size for node in below)
    return Node(place, value, size, 1 + max((node.height for node in below), default=0))


def _start(event: yaml.Event) -> Place:
    return _mark(event.start_mark)


def _mark(mark: _Mark | None) -> Place:
    return Place(mark.line + 1, mark.column + 1) if mark is not None else Place(1, 1)
