"""The bpf(2) system call: the few commands that lbctl needs, and nothing of libbpf.

A process that opens pins with this stays small; `bcc` (147 MB of compiler) is loaded by
the loader child alone. Numbers and layouts are those of linux/bpf.h.
"""

import ctypes
import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from pathlib import Path

_SYSCALL = {"x86_64": 321, "aarch64": 280}


class Command(IntEnum):
    MAP_CREATE = 0
    MAP_LOOKUP = 1
    MAP_UPDATE = 2
    MAP_DELETE = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_TEST_RUN = 10
    OBJ_GET_INFO_BY_FD = 15
    LINK_CREATE = 28
    LINK_UPDATE = 29


class MapType(IntEnum):
    HASH = 1
    ARRAY = 2
    PERCPU_ARRAY = 6
    LPM_TRIE = 11
    DEVMAP = 14
    RINGBUF = 27


class ProgramKind(IntEnum):
    """BPF_PROG_TYPE_*."""

    CLASSIFIER = 3  # SCHED_CLS: a filter of a clsact hook
    XDP = 6


class MapFlag(IntFlag):
    NONE = 0
    NO_PREALLOC = 1
    MMAPABLE = 1024


ATTACH_XDP = 37
XDP_DROP, XDP_PASS, XDP_TX, XDP_REDIRECT = 1, 2, 3, 4  # what a program answers
XDP_GENERIC = 1 << 1
XDP_NATIVE = 1 << 2

_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: Command, attr: bytes | ctypes.Array[ctypes.c_char]) -> int:
    """One system call. Raises OSError with the kernel's errno."""
    buffer = ctypes.create_string_buffer(bytes(attr), 128) if isinstance(attr, bytes) else attr
    number = _SYSCALL[os.uname().machine]
    result = int(_libc.syscall(number, int(command), buffer, len(buffer)))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


@dataclass(frozen=True, slots=True)
class MapSpec:
    """How a map is made. entries of a ring buffer are bytes."""

    name: str
    kind: MapType
    value_size: int
    entries: int
    key_size: int = 4
    flags: MapFlag = MapFlag.NONE


class Descriptor:
    """A file descriptor of the kernel's, closed with the object."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def pin(self, path: Path) -> None:
        name = ctypes.create_string_buffer(bytes(path))
        _bpf(Command.OBJ_PIN, struct.pack("=QII", _address(name), self.fd, 0))


def pinned(path: Path) -> Descriptor:
    """The object pinned at `path`. Raises FileNotFoundError."""
    name = ctypes.create_string_buffer(bytes(path))
    return Descriptor(_bpf(Command.OBJ_GET, struct.pack("=QII", _address(name), 0, 0)))


def create_map(spec: MapSpec) -> Descriptor:
    name = spec.name.encode()[:15].ljust(16, b"\0")
    attr = struct.pack(
        "=IIIII8x16s",
        spec.kind,
        spec.key_size,
        spec.value_size,
        spec.entries,
        spec.flags,
        name,
    )
    return Descriptor(_bpf(Command.MAP_CREATE, attr))


def update(map_: Descriptor, key: bytes, value: bytes) -> None:
    k, v = ctypes.create_string_buffer(key), ctypes.create_string_buffer(value)
    _bpf(Command.MAP_UPDATE, struct.pack("=I4xQQQ", map_.fd, _address(k), _address(v), 0))


def delete(map_: Descriptor, key: bytes) -> None:
    k = ctypes.create_string_buffer(key)
    _bpf(Command.MAP_DELETE, struct.pack("=I4xQ", map_.fd, _address(k)))


def lookup(map_: Descriptor, key: bytes, size: int) -> bytes:
    """size: of the value; for a per-CPU map, of all CPUs' values."""
    k, v = ctypes.create_string_buffer(key), ctypes.create_string_buffer(size)
    _bpf(Command.MAP_LOOKUP, struct.pack("=I4xQQQ", map_.fd, _address(k), _address(v), 0))
    return v.raw


def keys(map_: Descriptor, size: int) -> Iterator[bytes]:
    """All keys of a hash or trie; what changes meanwhile may be missed."""
    following = ctypes.create_string_buffer(size)
    key: ctypes.Array[ctypes.c_char] | None = None
    while True:
        at = _address(key) if key is not None else 0
        try:
            attr = struct.pack("=I4xQQ", map_.fd, at, _address(following))
            _bpf(Command.MAP_GET_NEXT_KEY, attr)
        except FileNotFoundError:
            return
        yield following.raw
        key = ctypes.create_string_buffer(following.raw, size)


def map_memory(map_: Descriptor, size: int, offset: int = 0) -> mmap.mmap:
    """`size` bytes of an mmapable array's values, live. offset: whole pages."""
    pages = (size + mmap.PAGESIZE - 1) & ~(mmap.PAGESIZE - 1)
    return mmap.mmap(map_.fd, pages, offset=offset)


_LICENCE = b"GPL\0"
_LOG_SIZE = 1 << 24


def load(code: bytes, name: str, kind: ProgramKind) -> Descriptor:
    """A program from its instructions. Raises OSError: why_not() says more."""
    return Descriptor(_load(code, name, kind, None))


def why_not(code: bytes, name: str, kind: ProgramKind) -> str:
    """What the verifier says about a program that it refuses."""
    log = ctypes.create_string_buffer(_LOG_SIZE)
    try:
        os.close(_load(code, name, kind, log))
    except OSError:
        return log.value.decode(errors="replace")
    return ""


def _load(
    code: bytes, name: str, kind: ProgramKind, log: ctypes.Array[ctypes.c_char] | None
) -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(_LICENCE)
    attr = struct.pack(
        "=IIQQIIQII16sII",
        kind,
        len(code) // 8,
        _address(instructions),
        _address(licence),
        0 if log is None else 1,
        0 if log is None else len(log),
        0 if log is None else _address(log),
        0,
        0,
        name.encode()[:15],
        0,
        0,
    )
    return _bpf(Command.PROG_LOAD, attr)


@dataclass(frozen=True, slots=True)
class Run:
    """What BPF_PROG_TEST_RUN answered. duration: nanoseconds per repetition."""

    action: int
    data: bytes
    duration: int


def run_program(program: Descriptor, data: bytes, *, repeat: int = 1, ifindex: int = 0) -> Run:
    """Run an XDP program on `data`. ifindex: the interface it seems to come in on."""
    context = struct.pack("=IIIIII", 0, len(data), 0, ifindex, 0, 0) if ifindex else b""
    return run_with(program, data, context, repeat)


def run_classifier(program: Descriptor, data: bytes, ifindex: int) -> Run:
    """Run a program of a clsact hook on a frame. ifindex: the hook's interface."""
    return run_with(program, data, struct.pack("=40xI", ifindex))  # of struct __sk_buff


def run_with(program: Descriptor, data: bytes, given: bytes = b"", repeat: int = 1) -> Run:
    """given: the program's context, as far as it matters."""
    source = ctypes.create_string_buffer(data, len(data))
    target = ctypes.create_string_buffer(len(data) + 256)
    context, size = ctypes.create_string_buffer(given), len(given)
    attr = ctypes.create_string_buffer(
        struct.pack(
            "=IIIIQQIIIIQQ",
            program.fd,
            0,
            len(data),
            len(target),
            _address(source),
            _address(target),
            repeat,
            0,
            size,
            0,
            _address(context) if size else 0,
            0,
        ),
        128,
    )
    _bpf(Command.PROG_TEST_RUN, attr)
    _, action, _, size_out, _, _, _, duration = struct.unpack_from("=IIIIQQII", attr)
    return Run(action, target.raw[:size_out], duration)


def identity(object_: Descriptor) -> int:
    """The kernel's id of a program, map or link: the second word of each kind's info."""
    return int(struct.unpack_from("=II", _info(object_))[1])


def value_size(map_: Descriptor) -> int:
    """Bytes of one value: the fourth word of a map's info."""
    return int(struct.unpack_from("=IIII", _info(map_))[3])


def _info(object_: Descriptor) -> ctypes.Array[ctypes.c_char]:
    info = ctypes.create_string_buffer(256)
    _bpf(Command.OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", object_.fd, len(info), _address(info)))
    return info


def verified(program: Descriptor) -> int:
    """The steps that the verifier took: of a million that it may (Linux 5.16 and later)."""
    return int(struct.unpack_from("=I", _info(program), 216)[0])


def linked_program(link: Descriptor) -> int:
    """The id of the program behind a link: the third word of its info."""
    info = ctypes.create_string_buffer(256)
    _bpf(Command.OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", link.fd, len(info), _address(info)))
    return int(struct.unpack_from("=III", info)[2])


def attach_xdp(program: Descriptor, ifindex: int, mode: int) -> Descriptor:
    """A link that holds `program` on an interface. mode: XDP_NATIVE, XDP_GENERIC or 0."""
    attr = struct.pack("=IIII", program.fd, ifindex, ATTACH_XDP, mode)
    return Descriptor(_bpf(Command.LINK_CREATE, attr))


def replace_program(link: Descriptor, program: Descriptor) -> None:
    """Atomically: every packet meets the old program or the new one."""
    _bpf(Command.LINK_UPDATE, struct.pack("=IIII", link.fd, program.fd, 0, 0))


@contextmanager
def opened(path: Path) -> Iterator[Descriptor]:
    descriptor = pinned(path)
    try:
        yield descriptor
    finally:
        descriptor.close()
