"""The probes: one file each. A probe is prepared once per check and run many times.

To add one: its settings as a `Probe` in `lbctl.model`, its conversation in a file here,
and its branch in `prepare`.
"""

from collections.abc import Callable
from functools import partial
from typing import assert_never

from lbctl.health.http1 import Expectation, request
from lbctl.health.probes.dial import Remote
from lbctl.health.probes.http import http
from lbctl.health.probes.tcp import tcp
from lbctl.health.reactor import Conversation
from lbctl.model import AnyProbe, Endpoint, HttpProbe, TcpProbe

Prepared = Callable[[], Conversation]


def prepare(probe: AnyProbe, endpoint: Endpoint) -> Prepared:
    """What starts one run of `probe` against `endpoint`. Raises ValueError where the
    probe's settings cannot be carried out."""
    remote = Remote.of(endpoint)
    match probe:
        case TcpProbe():
            return partial(tcp, remote)
        case HttpProbe():
            return partial(http, remote, request(probe, endpoint), Expectation.of(probe))
        case _:
            assert_never(probe)
