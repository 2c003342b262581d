"""`fast.c` as Python sees it: built by the box's C compiler, called through ctypes.

Where there is no compiler, or building fails, `Unbuilt` says why and the server runs on
Python alone: the same answers, at about 0.3 of the speed (ADR 10).
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lbctl.gslb.rrl import RateLimit, Ruling

SOURCE = Path(__file__).parent / "fast.c"
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O2", "-shared", "-fPIC")
ASK, DROP, SLIP = 0, -1, -2  # what `reply` may say instead of a reply
ROOM = 1280
_HARVEST = 4096
PATIENCE = 60  # seconds for the compiler, which takes one
_RULINGS = (Ruling.SEND, Ruling.SLIP, Ruling.DROP)


class Unbuilt(Exception):
    """There is no library, and why."""


def build(directory: Path) -> Path:
    """The library, built into `directory` unless this very source was. Raises Unbuilt."""
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if compiler is None:
        raise Unbuilt("no C compiler (apt-get install gcc libc6-dev)")
    digest = hashlib.sha256(SOURCE.read_bytes() + os.uname().machine.encode()).hexdigest()[:16]
    library = directory / f"fast-{digest}.so"
    if library.exists():
        return _loadable(library)
    fresh = library.with_suffix(f".{os.getpid()}")
    command = [compiler, *FLAGS, "-o", str(fresh), str(SOURCE)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        raise Unbuilt(f"{compiler} took over {PATIENCE} s") from None
    if done.returncode:
        last = " ".join(done.stderr.strip().splitlines()[-1:])
        raise Unbuilt(f"{compiler} failed: {last or f'exit status {done.returncode}'}")
    fresh.replace(library)
    return _loadable(library)


def build_in(directories: Sequence[Path]) -> Path:
    """As `build`, in the first directory from which code can be run: Debian mounts /run
    without that right. Raises Unbuilt."""
    reasons = []
    for directory in directories:
        try:
            return build(directory)
        except Unbuilt as error:
            reasons.append(str(error))
    raise Unbuilt("; ".join(dict.fromkeys(reasons)))


def _loadable(library: Path) -> Path:
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        raise Unbuilt(f"{error} (is it mounted noexec?)") from None
    return library


class Native:
    """One server of the library, for one process. It has the rate limit's meters, too."""

    def __init__(self, library: Path, limit: RateLimit, secret: bytes) -> None:
        self._c = ctypes.CDLL(str(library))
        self._c.lb_open.restype = ctypes.c_void_p
        self._c.lb_dropped.restype = ctypes.c_uint64
        self._server = ctypes.c_void_p(
            self._c.lb_open(limit.responses, limit.errors, limit.slip, secret, len(secret))
        )
        self._missed = (ctypes.c_uint16 * 64)()
        self._misses = ctypes.c_uint32()
        self._reply = ctypes.create_string_buffer(ROOM)
        self._index = (ctypes.c_uint32 * _HARVEST)()
        self._count = (ctypes.c_uint64 * _HARVEST)()

    def close(self) -> None:
        self._c.lb_close(self._server)

    def load(self, names: Path | None, networks: Path | None, answers: Path) -> None:
        """Serve from these files; None: that part stays. Raises FileNotFoundError."""
        paths = [None if one is None else os.fsencode(one) for one in (names, networks, answers)]
        if self._c.lb_load(self._server, *paths):
            raise FileNotFoundError(answers)

    def watch(self, board: Path) -> None:
        """Answer nothing once `board` differs from what was `seen`. Raises FileNotFoundError."""
        if self._c.lb_watch(self._server, os.fsencode(board)):
            raise FileNotFoundError(board)

    def seen(self, turn: int) -> None:
        """The board's turn number whose blobs are loaded."""
        self._c.lb_seen(self._server, ctypes.c_uint64(turn))

    def tick(self, second: int, unix: int) -> None:
        self._c.lb_tick(self._server, second & 0xFFFFFFFF, unix)

    def rule(self, network: bytes, *, error: bool) -> Ruling:
        """As `rrl.Window.rule`, by the meters that the C side uses."""
        family = b"\x04" if len(network) == 3 else b"\x10"
        number = int.from_bytes(family + network, "big")
        return _RULINGS[self._c.lb_rule(self._server, ctypes.c_uint64(number), int(error))]

    def reply(self, query: bytes, source: bytes) -> bytes | int:
        """One reply, or ASK, DROP, SLIP. For tests."""
        length = self._c.lb_reply(self._server, query, len(query), source, len(source), self._reply)
        return self._reply.raw[:length] if length > 0 else int(length)

    def serve(
        self, descriptor: int, incoming: int, outgoing: int, patience: float
    ) -> tuple[int, list[int]]:
        """Batches, for `patience` seconds at most: how many came in the last (-1: see errno),
        and those of it left to Python, as fast.c says. incoming, outgoing: addresses of 64
        mmsghdr each."""
        count = self._c.lb_serve(
            self._server,
            descriptor,
            ctypes.c_void_p(incoming),
            ctypes.c_void_p(outgoing),
            self._missed,
            ctypes.byref(self._misses),
            ctypes.c_uint64(int(patience * 1e9)),
        )
        return int(count), self._missed[: self._misses.value]

    def harvest(self) -> tuple[bytes, bytes]:
        """The counters of answers that moved since the last harvest (uint32), and by how much
        (uint64); 4,096 at most. A counter's number is its choice's times 16, plus its
        reason's."""
        taken = self._c.lb_harvest(self._server, self._index, self._count, _HARVEST)
        return (
            bytes(memoryview(self._index).cast("B")[: 4 * taken]),
            bytes(memoryview(self._count).cast("B")[: 8 * taken]),
        )

    @property
    def dropped(self) -> int:
        """Replies kept back by the rate limit since the last look."""
        return int(self._c.lb_dropped(self._server))
