"""The ring buffer through which the program asks for neighbours, and for a check of a
server (struct lb_wanted).

Layout (kernel/bpf/ringbuf.c): one page with the consumer's position, one with the
producer's, then the data twice in a row, so that a record never wraps. A record has a
header of 8 bytes: its length, with a busy and a discard bit.
"""

import mmap
import struct
from collections.abc import Iterator

from lbctl.dataplane.xdp import abi
from lbctl.dataplane.xdp.bpf import Descriptor
from lbctl.model import Address

SIZE = 65536
BUSY, DISCARD = 1 << 31, 1 << 30
HEADER = 8


class Wishes:
    def __init__(self, ring: Descriptor) -> None:
        self._fd = ring.fd
        page = mmap.PAGESIZE
        self._consumer = mmap.mmap(ring.fd, page)
        self._data = mmap.mmap(ring.fd, page + 2 * SIZE, prot=mmap.PROT_READ, offset=page)

    def fileno(self) -> int:
        return self._fd

    def take(self) -> Iterator[tuple[Address | None, int]]:
        """Every wish since the last call; many may be the same. A neighbour by address and
        interface; or None and the number of a server that is to be checked."""
        at = struct.unpack_from("=Q", self._consumer)[0]
        end = struct.unpack_from("=Q", self._data)[0]
        while at < end:
            start = mmap.PAGESIZE + at % SIZE
            length = struct.unpack_from("=I", self._data, start)[0]
            if length & BUSY:
                break
            if not length & DISCARD:
                record = self._data[start + HEADER : start + HEADER + (length & ~DISCARD)]
                wish = abi.Wanted.from_buffer_copy(record)
                if wish.family == abi.WANTED_CHECK:
                    yield None, wish.ifindex
                else:
                    yield abi.address(wish.addr.w, wish.family), wish.ifindex
            at += (HEADER + (length & ~DISCARD) + 7) & ~7
        struct.pack_into("=Q", self._consumer, 0, at)

    def close(self) -> None:
        self._consumer.close()
        self._data.close()
