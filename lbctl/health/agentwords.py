"""The two languages of agents: bytes that came in, a `Report` out.

Whatever is not plainly a report raises `Failed`, with what is wrong in words: an agent that
lies is not believed, and is then as good as silent.
"""

import msgspec

from lbctl.health.report import Report
from lbctl.health.result import Failed
from lbctl.said import plain

LINE = 4096  # bytes of a line of HAProxy's protocol
SLACK = 0.05  # a share may come out a little past the whole: two clocks took part in it


# --- our own: JSON ----------------------------------------------------------------------


class _Share(msgspec.Struct):
    used: float


class _Disk(msgspec.Struct):
    mount: str
    used: float


class _Connections(msgspec.Struct):
    established: int


class _Answer(msgspec.Struct):
    """What `agents/` documents; keys that we do not need may be there too."""

    nonce: str
    cpu: _Share | None = None
    memory: _Share | None = None
    disks: list[_Disk] = []
    connections: _Connections | None = None
    words: str = ""


# An answer carries all of the words that hold: what it leaves out was taken back.
_PLAIN = Report(percent=100, admin="ready", state="up")
_decode = msgspec.json.Decoder(_Answer).decode


def read_json(body: bytes, nonce: str) -> Report:
    """nonce: what was sent along; an answer with another one is not one to this question."""
    try:
        answer = _decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Failed(f"no agent's answer: {error}") from None
    if answer.nonce != nonce:
        raise Failed("an old answer: its nonce is not the one that was sent")
    worst = max(answer.disks, key=lambda disk: disk.used, default=None)
    said = read_words(answer.words) if answer.words.strip() else Report()
    connections = answer.connections.established if answer.connections else None
    if connections is not None and connections < 0:
        raise Failed(f"it lies: {connections} connections")
    return msgspec.structs.replace(
        said.after(_PLAIN),
        reason=said.reason,
        cpu=_share("cpu", answer.cpu.used if answer.cpu else None),
        memory=_share("memory", answer.memory.used if answer.memory else None),
        disk=_share(f"disk {worst.mount}" if worst else "disk", worst.used if worst else None),
        connections=connections,
    )


def _share(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    if not 0.0 <= value <= 1.0 + SLACK:
        raise Failed(f"it lies: {name} in use is {value:g}, a share is 0 to 1")
    return min(1.0, value)


# --- HAProxy's: a line ------------------------------------------------------------------


def read_line(data: bytes) -> Report | None:
    """A line, up to its first CR or LF; None where it is not whole yet.

    HAProxy 2.6 configuration manual, 5.2, `agent-check`: words between blanks or commas, in
    any order; `#` begins a description; what is not advertised keeps its value.
    """
    line, end = _first_line(data)
    if not end:
        if len(data) >= LINE:
            raise Failed(f"a line of more than {LINE} bytes")
        return None
    try:
        return read_words(line.decode("ascii"))
    except UnicodeDecodeError:
        raise Failed(f"not an agent's line: {line[:24]!r}") from None


def _first_line(data: bytes) -> tuple[bytes, bool]:
    for at, byte in enumerate(data):
        if byte in b"\r\n":
            return data[:at], True
    return data, False


def read_words(line: str) -> Report:
    """The words of a line. Unknown ones are left out, as in HAProxy, where others are known."""
    text, _, description = line.partition("#")
    words = text.replace(",", " ").split()
    report, known = Report(reason=plain(description.strip())), 0
    for word in words:
        said = _word(word.lower())
        if said is not None:
            known += 1
            report = msgspec.structs.replace(report, **said)
    if not known:
        raise Failed(f"not an agent's line: {line[:40]!r}")
    return report


def _word(word: str) -> dict[str, object] | None:
    match word:
        case "ready" | "drain" | "maint":
            return {"admin": word}
        case "up":
            return {"state": "up"}
        case "down" | "failed" | "stopped":
            return {"state": "down"}
    if word.startswith("maxconn:") and word[8:].isdecimal():
        return {}  # the limit is the configuration's
    if word.endswith("%") and word[:-1].isdecimal():
        number = int(word[:-1]) if len(word) < 6 else 1000
        if number > 100:
            raise Failed(f"it wants a weight of {word[:12]}, and 100% is all there is")
        return {"percent": number}
    return None
