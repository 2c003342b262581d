"""Random tables of what IPVS can hold, for property tests here and in the test machine."""

from ipaddress import IPv4Address, IPv6Address

from hypothesis import strategies as st

from lbctl.model import (
    Destination,
    Encapsulation,
    Endpoint,
    Family,
    FirewallMark,
    Forwarding,
    Listen,
    Mode,
    Persistence,
    Proto,
    Scheduler,
    Table,
    Tunnel,
    VirtualService,
)

# Documentation ranges: nothing of a test may look like a real address.
VIPS = {
    Family.IPV4: st.integers(1, 254).map(lambda n: IPv4Address(f"192.0.2.{n}")),
    Family.IPV6: st.integers(1, 254).map(lambda n: IPv6Address(f"2001:db8::{n:x}")),
}
SERVERS = {
    Family.IPV4: st.integers(1, 254).map(lambda n: IPv4Address(f"198.51.100.{n}")),
    Family.IPV6: st.integers(1, 254).map(lambda n: IPv6Address(f"2001:db8:1::{n:x}")),
}
PORTS = st.integers(1, 65535)
FLAGS = {
    "sh": ("sh-fallback", "sh-port", "flag-3"),
    "mh": ("mh-fallback", "mh-port", "flag-3"),
}
PLAIN = ("flag-1", "flag-2", "flag-3")
# Those of Debian's kernel; `twos` is in no distribution's.
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "fo", "ovf")

schedulers = st.sampled_from(SCHEDULERS).flatmap(
    lambda name: st.builds(
        Scheduler, st.just(name), st.frozensets(st.sampled_from(FLAGS.get(name, PLAIN)))
    )
)
tunnels = st.one_of(
    st.just(Tunnel()),
    st.builds(
        Tunnel,
        st.just(Encapsulation.GUE),
        PORTS,
        st.sampled_from([frozenset(), frozenset({"csum"}), frozenset({"remcsum"})]),
    ),
    st.builds(
        Tunnel,
        st.just(Encapsulation.GRE),
        st.just(0),
        st.sampled_from([frozenset(), frozenset({"csum"})]),
    ),
)
forwardings = st.one_of(
    st.sampled_from([Forwarding(Mode.NAT), Forwarding(Mode.DR)]),
    st.builds(Forwarding, st.just(Mode.TUN), tunnels),
)


@st.composite
def destinations(draw):
    limit = draw(st.integers(0, 100_000))
    return Destination(
        draw(st.integers(0, 65535)), draw(forwardings), limit, draw(st.integers(0, limit))
    )


@st.composite
def services(draw, frontends):
    frontend = draw(frontends)
    width = 32 if frontend.family is Family.IPV4 else 128
    by_mark = isinstance(frontend, FirewallMark)
    udp = not by_mark and frontend.proto is Proto.UDP
    # The `sip` engine is for UDP (net/netfilter/ipvs/ip_vs_pe_sip.c).
    engines = st.sampled_from(["", "sip"]) if udp else st.just("")
    lasting = st.builds(Persistence, st.integers(1, 2_678_400), st.integers(1, width), engines)
    persistence = draw(st.none() | lasting)
    ports = st.just(0) if by_mark else PORTS
    endpoints = st.builds(Endpoint, SERVERS[frontend.family], ports)
    return frontend, VirtualService(
        draw(schedulers),
        draw(st.dictionaries(endpoints, destinations(), max_size=5)),
        persistence,
        udp and persistence is None and draw(st.booleans()),
    )


listens = st.sampled_from(list(Family)).flatmap(
    lambda family: st.builds(Listen, VIPS[family], PORTS, st.sampled_from(list(Proto)))
)
marks = st.builds(FirewallMark, st.integers(1, 2**32 - 1), st.sampled_from(list(Family)))


def tables(min_size=0, max_size=8):
    each = services(listens | marks)
    return st.lists(each, min_size=min_size, max_size=max_size, unique_by=lambda pair: pair[0]).map(
        lambda pairs: Table(dict(pairs))
    )
