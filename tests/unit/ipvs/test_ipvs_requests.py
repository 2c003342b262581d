"""What the API takes under /v1/ipvs, and what it refuses before the kernel hears of it."""

import asyncio

import pytest

from lbctl.daemon.ipvs import Ipvs
from lbctl.daemon.requests import BadRequest


class Asked:
    """A request with this body."""

    def __init__(self, body):
        self._body = body

    async def read(self):
        return self._body


@pytest.mark.parametrize(
    ("verb", "body", "said"),
    [
        ("sync", b'{"role": "master", "group": "foo"}', "group: "),
        ("sync", b'{"role": "master", "id": 256}', "`int` <= 255 - at `$.id`"),
        ("sync", b'{"role": "master", "ttl": 300}', "at `$.ttl`"),
        ("sync", b'{"role": "master", "port": 70000}', "at `$.port`"),
        ("sync", b'{"role": "master", "maxlen": -1}', "at `$.maxlen`"),
        ("sync", b'{"role": "neither"}', "at `$.role`"),
        ("zero", b'{"frontend": "foo"}', "frontend: "),
        ("timeouts", b'{"tcp": 4294967296}', "at `$.tcp`"),
        ("timeouts", b'{"udp": -1}', "at `$.udp`"),
        ("timeouts", b"[", "request body"),
    ],
)
def test_what_no_message_to_the_kernel_can_say_is_refused(verb, body, said):
    with pytest.raises(BadRequest) as refused:
        asyncio.run(getattr(Ipvs(None), verb)(Asked(body)))
    assert said in refused.value.message
