"""Blobs: arrays in one file that Python, C and an XDP program can all read in place.

    +0   magic         8 octets
    +8   crc32         u32, of everything after it
    +12  sections      u32
    +16  size          u64, of the whole file
    +24  { offset u64, octets u64 } per section, each offset a multiple of 8
    ...  the sections

All numbers are little-endian, as every machine that runs XDP here is. A blob never changes
once written: a new one is written beside it and the readers are told (`board`).
"""

import struct
import zlib
from collections.abc import Sequence

HEAD = struct.Struct("<8sIIQ")
SECTION = struct.Struct("<QQ")


class BadBlob(ValueError):
    """Not a blob, of another layout, or cut short."""


def pack(magic: bytes, sections: Sequence[bytes]) -> bytes:
    """One blob of `sections`. magic: 8 octets, with the layout's version in the last."""
    at = HEAD.size + SECTION.size * len(sections)
    table, body = bytearray(), bytearray()
    for section in sections:
        padding = -(at + len(body)) % 8
        body += bytes(padding)
        table += SECTION.pack(at + len(body), len(section))
        body += section
    rest = struct.pack("<IQ", len(sections), at + len(body)) + table + body
    return magic + struct.pack("<I", zlib.crc32(rest)) + rest


def unpack(magic: bytes, blob: memoryview, *, check: bool = True) -> list[memoryview]:
    """The sections of `blob`, in place. Raises BadBlob."""
    if len(blob) < HEAD.size:
        raise BadBlob("shorter than a header")
    found, crc, count, size = HEAD.unpack_from(blob)
    if found != magic:
        raise BadBlob(f"magic {found!r}, not {magic!r}")
    if size != len(blob) or HEAD.size + SECTION.size * count > size:
        raise BadBlob(f"{len(blob)} octets, {size} promised")
    if check and zlib.crc32(blob[12:]) != crc:
        raise BadBlob("checksum does not match")
    sections = []
    for number in range(count):
        offset, octets = SECTION.unpack_from(blob, HEAD.size + SECTION.size * number)
        if offset + octets > size:
            raise BadBlob(f"section {number} runs past the end")
        sections.append(blob[offset : offset + octets])
    return sections
