"""A random table of IPVS from a seed.

Hypothesis chooses the seed and not each value: in the test machine, where Python is twenty
times slower, two hundred services drawn value by value take a minute and a half.
"""

from ipaddress import ip_address
from random import Random

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

VIP = {Family.IPV4: "192.0.2.{}", Family.IPV6: "2001:db8::{}"}
SERVER = {Family.IPV4: "198.51.100.{}", Family.IPV6: "2001:db8:1::{}"}
WIDTH = {Family.IPV4: 32, Family.IPV6: 128}
# Those of Debian's kernel, with the names of their flags.
HASHES = {name: (f"{name}-fallback", f"{name}-port", "flag-3") for name in ("sh", "mh")}
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "fo", "ovf")


def random_table(seed, size):
    random = Random(seed)
    found = {}
    while len(found) < size:
        frontend, service = _service(random)
        found[frontend] = service
    return Table(found)


def _service(random):
    family = random.choice(list(Family))
    if random.random() < 0.1:
        frontend = FirewallMark(random.randrange(1, 2**32), family)
    else:
        vip = ip_address(VIP[family].format(random.randrange(1, 99)))
        frontend = Listen(vip, random.randrange(1, 65536), random.choice(list(Proto)))
    udp = isinstance(frontend, Listen) and frontend.proto is Proto.UDP
    persistence = _persistence(random, family, udp) if random.random() < 0.3 else None
    oneshot = udp and persistence is None and random.random() < 0.5
    servers = {}
    for _ in range(random.randrange(6)):
        address = ip_address(SERVER[family].format(random.randrange(1, 99)))
        port = random.randrange(1, 65536) if isinstance(frontend, Listen) else 0
        servers[Endpoint(address, port)] = _destination(random)
    return frontend, VirtualService(_scheduler(random), servers, persistence, oneshot)


def _scheduler(random):
    name = random.choice(SCHEDULERS)
    flags = HASHES.get(name, ("flag-1", "flag-2", "flag-3"))
    return Scheduler(name, frozenset(flag for flag in flags if random.random() < 0.2))


def _persistence(random, family, udp):
    # The `sip` engine is for UDP (net/netfilter/ipvs/ip_vs_pe_sip.c).
    engine = "sip" if udp and random.random() < 0.3 else ""
    return Persistence(random.randrange(1, 2_678_400), random.randint(1, WIDTH[family]), engine)


def _destination(random):
    limit = random.choice([0, random.randrange(100_000)])
    weight = random.choice([0, 1, random.randrange(65536)])
    return Destination(weight, _forwarding(random), limit, random.randint(0, limit))


def _forwarding(random):
    mode = random.choice([Mode.NAT, Mode.DR, Mode.TUN])
    if mode is not Mode.TUN:
        return Forwarding(mode)
    match random.choice(list(Encapsulation)):
        case Encapsulation.GUE:
            flags = random.choice([frozenset(), frozenset({"csum"}), frozenset({"remcsum"})])
            return Forwarding(mode, Tunnel(Encapsulation.GUE, random.randrange(1, 65536), flags))
        case Encapsulation.GRE:
            flags = random.choice([frozenset(), frozenset({"csum"})])
            return Forwarding(mode, Tunnel(Encapsulation.GRE, 0, flags))
        case _:
            return Forwarding(mode)
