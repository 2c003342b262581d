"""bcc as a compiler only: C in, bytecode out, kept in a cache by the hash of all it is made
from.

Maps are named in the text by LB_FD_<map>; in the bytecode these are numbers of our own,
which `linked` replaces by descriptors. So one compilation serves every gateway, boot and
kernel, and a shape that was compiled once needs neither bcc nor headers again.
"""

import hashlib
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lbctl.dataplane.xdp.bpf import Descriptor
from lbctl.dataplane.xdp.headers import find_headers
from lbctl.errors import DataPlaneError

FORMAT = "2"  # of a file in the cache: SHA-256 of the bytecode, and that
KEPT = 256  # programs: of the others the longest unused go
VARIABLE = "LBCTL_PROGRAMS"  # another place for the cache
PLACE = Path("/var/cache/lbctl/programs")

# struct bpf_insn: opcode, both registers, offset, immediate.
_INSTRUCTION = struct.Struct("=BBhi")
_LOAD_WIDE, _MAP_FD, _MAP_VALUE = 0x18, 1, 2


def bytecode(text: str, function: str, maps: Iterable[str], flags: Sequence[str]) -> bytes:
    """The instructions of `function`, for linked(). Raises DataPlaneError."""
    numbers = [f"-DLB_FD_{name}={number}" for name, number in _numbers(maps).items()]
    everything = ["-DLB_LOADER_BCC", "-Wno-macro-redefined", *flags, *numbers]
    made_from = "\0".join([FORMAT, os.uname().machine, function, *everything, text])
    path = _place() / hashlib.sha256(made_from.encode()).hexdigest()
    if (kept := _kept(path)) is not None:
        return kept
    made = _compile(text, function, everything)
    _keep(path, made)
    return made


def linked(code: bytes, maps: Mapping[str, Descriptor]) -> bytes:
    """The same with the descriptors of `maps` in the places of their numbers."""
    names = {number: name for name, number in _numbers(maps).items()}
    made = bytearray(code)
    for at in range(0, len(code), _INSTRUCTION.size):
        opcode, registers, offset, number = _INSTRUCTION.unpack_from(code, at)
        if opcode == _LOAD_WIDE and registers >> 4 in (_MAP_FD, _MAP_VALUE):
            fd = maps[names[number]].fd
            _INSTRUCTION.pack_into(made, at, opcode, registers, offset, fd)
    return bytes(made)


def _numbers(maps: Iterable[str]) -> dict[str, int]:
    return {name: number for number, name in enumerate(sorted(maps), 1)}


def _place() -> Path:
    return Path(os.environ.get(VARIABLE, PLACE))


def _kept(path: Path) -> bytes | None:
    """What was compiled earlier; None if that is not there, or torn (the power failed)."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    code = content[hashlib.sha256().digest_size :]
    if content != _content(code):
        return None
    with suppress(OSError):
        os.utime(path)
    return code


def _content(code: bytes) -> bytes:
    return hashlib.sha256(code).digest() + code


def _keep(path: Path, code: bytes) -> None:
    """A cache that cannot be written costs time, nothing else."""
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        fresh.write_bytes(_content(code))
        fresh.replace(path)
        _prune(path.parent)


def _prune(place: Path) -> None:
    """Remove all but the KEPT that were used last. Raises OSError."""
    used = sorted((one.stat().st_mtime, one) for one in place.iterdir() if one.is_file())
    for _, one in used[:-KEPT]:
        one.unlink(missing_ok=True)


def _compile(text: str, function: str, flags: Sequence[str]) -> bytes:
    bpf_class = _bcc()
    find_headers(os.uname().release)
    try:
        made = bpf_class(text=text.encode(), cflags=list(flags))
        return bytes(made.dump_func(function.encode()))
    except Exception as error:  # bcc raises nothing narrower
        raise DataPlaneError(
            f"bpf/: cannot compile {function}: {error}", "the compiler's words are in the log"
        ) from None


def _bcc() -> Any:
    """bcc's one class; importing it is the reason for the loader's process."""
    try:
        from bcc import BPF
    except ImportError as error:
        raise DataPlaneError(
            f"bcc: cannot import it: {error}", "apt install python3-bpfcc"
        ) from None
    return BPF
