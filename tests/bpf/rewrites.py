"""Is a packet that left the program a right translation of the one that came in?

Asked of bytes alone, without scapy and without what the program computes: apart from the
fields that a translation may change nothing is different, and every checksum is as right, or
as wrong by the same amount, as it was.
"""

import struct
from dataclasses import dataclass

ETHER, IP4, IP6 = 14, 20, 40
TCP, UDP, ICMP, FRAGMENT, ICMP6 = 6, 17, 1, 44, 58
EXTENSIONS = {0, 43, 60}
CHECK = {TCP: 16, UDP: 6}


@dataclass(frozen=True)
class Packet:
    """Where things are in a frame, or in the packet inside an ICMP error. l4: None where the
    ports are not shown."""

    data: bytes
    at: int
    six: bool
    proto: int
    l4: int | None
    end: int

    @property
    def source(self) -> slice:
        return slice(self.at + 8, self.at + 24) if self.six else slice(self.at + 12, self.at + 16)

    @property
    def dest(self) -> slice:
        return slice(self.at + 24, self.at + 40) if self.six else slice(self.at + 16, self.at + 20)

    @property
    def header_end(self) -> int:
        return self.at + (IP6 if self.six else (self.data[self.at] & 15) * 4)


def parse(data: bytes, at: int = ETHER, end: int | None = None) -> Packet:
    """A packet that the program translated, so it is whole as far as it is looked at."""
    if data[at] >> 4 == 6:
        length, proto = struct.unpack_from(">HB", data, at + 4)
        place, later = at + IP6, False
        while proto in EXTENSIONS or proto == FRAGMENT:
            following = data[place]
            if proto == FRAGMENT:
                later = struct.unpack_from(">H", data, place + 2)[0] & 0xFFF8 != 0
                place += 8
            else:
                place += 8 + data[place + 1] * 8
            proto = following
            if later:
                break
        return Packet(data, at, True, proto, None if later else place, end or at + IP6 + length)
    length, fragment = struct.unpack_from(">H2xH", data, at + 2)
    l4 = None if fragment & 0x1FFF else at + (data[at] & 15) * 4
    return Packet(data, at, False, data[at + 9], l4, end or at + length)


def total(data: bytes) -> int:
    """The sum of 16-bit words, as checksums see it: 0 and 0xffff are one."""
    return sum(word for (word,) in struct.iter_unpack(">H", data + bytes(len(data) % 2))) % 0xFFFF


class Judge:
    """before, after: frames. May a field differ? Then it is said here."""

    def __init__(self, before: bytes, after: bytes) -> None:
        self.before, self.after = before, after
        self.old, self.new = parse(before), parse(after)
        self.free = [slice(0, 12)]

    def check(self) -> None:
        assert len(self.before) == len(self.after)
        old = self.old
        hops = old.at + (7 if old.six else 8)
        assert self.after[hops] == self.before[hops] - 1
        self.free.append(slice(hops, hops + 1))
        forward = self.before[old.dest] != self.after[old.dest]
        self.free.append(old.dest if forward else old.source)
        self._header(old, self.new)
        if old.proto in (ICMP, ICMP6):
            self._error(forward)
        elif old.l4 is not None:
            self._transport(old, self.new, old.l4 + (2 if forward else 0))
        self._rest()

    def _header(self, old: Packet, new: Packet) -> None:
        """IPv4's own checksum."""
        if old.six:
            return
        self.free.append(slice(old.at + 10, old.at + 12))
        header = slice(old.at, old.header_end)
        assert total(old.data[header]) == total(new.data[header]), "checksum of the header"

    def _transport(self, old: Packet, new: Packet, port: int) -> None:
        """Ports and addresses are what changed of what the checksum covers."""
        assert old.l4 is not None
        self.free.append(slice(port, port + 2))
        check = old.l4 + CHECK[old.proto]
        if check + 2 > old.end:
            return  # cut off, inside of an error
        self.free.append(slice(check, check + 2))
        if old.proto == UDP and old.data[check : check + 2] == b"\0\0":
            assert new.data[check : check + 2] == b"\0\0", "there is none in UDP"
            return
        sums = [
            total(one.data[one.source] + one.data[one.dest])
            + total(one.data[old.l4 : old.l4 + 4])
            + total(one.data[check : check + 2])
            for one in (old, new)
        ]
        assert sums[0] % 0xFFFF == sums[1] % 0xFFFF, "checksum of the transport"

    def _error(self, forward: bool) -> None:
        old, new = self.old, self.new
        assert old.l4 is not None
        self.free.append(slice(old.l4 + 2, old.l4 + 4))
        inner, fresh = (parse(one.data, old.l4 + 8, old.end) for one in (old, new))
        self.free.append(inner.source if forward else inner.dest)
        self._header(inner, fresh)
        assert inner.l4 is not None
        self._transport(inner, fresh, inner.l4 + (0 if forward else 2))
        sums = [
            total(one.data[old.l4 : old.end])
            + (total(one.data[one.source] + one.data[one.dest]) if old.six else 0)
            for one in (old, new)
        ]
        assert sums[0] % 0xFFFF == sums[1] % 0xFFFF, "checksum of the error"

    def _rest(self) -> None:
        before, after = bytearray(self.before), bytearray(self.after)
        for place in self.free:
            before[place] = after[place] = bytes(place.stop - place.start)
        assert before == after, "something else was changed"
