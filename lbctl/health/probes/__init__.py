"""The probes: one file each. A probe is prepared once per check and run many times.

To add one: its settings as a `Probe` in `lbctl.model`, its conversation in a file here,
and its branch in `prepare`.
"""

import re
from collections.abc import Callable
from functools import partial
from socket import socket
from typing import assert_never

from lbctl.health.dns1 import question
from lbctl.health.files import Files
from lbctl.health.grpc1 import call
from lbctl.health.http1 import Expectation, request
from lbctl.health.probes.agent import Question, ask_agent, ask_haproxy_agent
from lbctl.health.probes.command import Scripts, environment
from lbctl.health.probes.datagram import dns, udp
from lbctl.health.probes.dial import Dial, Remote, dial
from lbctl.health.probes.grpc import grpc
from lbctl.health.probes.http import KeptConnection, http, http_kept
from lbctl.health.probes.icmp import Pinger
from lbctl.health.probes.tcp import tcp
from lbctl.health.reactor import Conversation, Reactor
from lbctl.health.result import Unable
from lbctl.model import (
    AgentProbe,
    AnyProbe,
    DnsProbe,
    Endpoint,
    ExecProbe,
    GrpcProbe,
    HttpProbe,
    IcmpProbe,
    TcpProbe,
    Tls,
    TlsProbe,
    UdpProbe,
)

Prepared = Callable[[], Conversation]


class Instruments:
    """What probes of one worker share. spawner: the line to it, if one was started. files:
    those that they need."""

    def __init__(self, reactor: Reactor, spawner: socket | None = None) -> None:
        self._reactor = reactor
        self.files = Files()
        self._pingers: dict[int, Pinger] = {}
        self._scripts = None if spawner is None else Scripts(spawner, reactor)

    def pinger(self, family: int) -> Pinger:
        """Raises Unable."""
        if family not in self._pingers:
            self._pingers[family] = Pinger(family, self._reactor)
        return self._pingers[family]

    @property
    def scripts(self) -> Scripts:
        """Raises Unable."""
        if self._scripts is None:
            raise Unable("no spawner was started with this worker")
        return self._scripts


def prepare(
    probe: AnyProbe, endpoint: Endpoint, timeout: float, shared: Instruments, mark: int = 0
) -> Prepared:
    """What starts one run of `probe` against `endpoint`. mark: of its packets. Raises
    ValueError where the probe's settings cannot be carried out, and Unable where this
    process cannot."""
    remote = Remote.of(endpoint, mark)
    match probe:
        case TcpProbe():
            return partial(tcp, remote)
        case TlsProbe():
            from lbctl.health.probes.secure import tls  # only who needs OpenSSL loads it

            return partial(tls, remote, probe, shared.files)
        case HttpProbe():
            return _http(probe, endpoint, _dial(remote, probe.tls, shared.files))
        case UdpProbe():
            expect = re.compile(probe.expect.encode()) if probe.expect else None
            return partial(udp, remote, probe.payload, expect)
        case DnsProbe():
            return partial(dns, remote, question(probe), probe)
        case IcmpProbe():
            return partial(shared.pinger(remote.family).ping, remote, probe.size)
        case GrpcProbe():
            authority = probe.tls.name if probe.tls and probe.tls.name else str(endpoint)
            whole = call(probe.service, authority, "https" if probe.tls else "http")
            return partial(grpc, _dial(remote, probe.tls, shared.files, alpn="h2"), whole)
        case ExecProbe():
            env = environment(endpoint, timeout)
            return partial(shared.scripts.run, probe, env, timeout)
        case AgentProbe():
            return _agent(probe, endpoint, remote, shared.files)
        case _:
            assert_never(probe)


def _dial(remote: Remote, tls: Tls | None, files: Files, alpn: str = "") -> Dial:
    if tls is None:
        return partial(dial, remote)
    from lbctl.health.probes.secure import dial_secure  # only who needs OpenSSL loads it

    return partial(dial_secure, remote, tls, files, alpn)


def _http(probe: HttpProbe, endpoint: Endpoint, dial: Dial) -> Prepared:
    asked, expected = request(probe, endpoint), Expectation.of(probe)
    if probe.keepalive:
        return partial(http_kept, KeptConnection(dial), asked, expected)
    return partial(http, dial, asked, expected)


def _agent(probe: AgentProbe, endpoint: Endpoint, remote: Remote, files: Files) -> Prepared:
    if probe.speaks == "haproxy":
        return partial(ask_haproxy_agent, _dial(remote, None, files), probe.send.encode())
    kept = KeptConnection(_dial(remote, probe.tls, files))
    return partial(ask_agent, Question(probe, endpoint, files), kept)
