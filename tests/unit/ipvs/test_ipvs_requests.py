"""What the API takes under /v1/ipvs, and what it refuses before the kernel hears of it."""

import asyncio
import json
from types import SimpleNamespace

import pytest
from aiohttp import web

from lbctl.cli.client import Client
from lbctl.daemon.ipvs import CHUNK, Ipvs, json_array
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


# --- the connection table -----------------------------------------------------------------


class Plane:
    """An IPVS that answers at once."""

    async def ask(self, question):
        return None


def listed(tmp_path, text):
    """What `lbctl ipvsadm -Lcn` gets where the kernel's table is `text`."""
    table, socket = tmp_path / "ip_vs_conn", str(tmp_path / "socket")
    table.write_text(text)

    async def run():
        app = web.Application()
        app.add_routes(Ipvs(SimpleNamespace(plane=Plane()), table).routes())
        runner = web.AppRunner(app)
        await runner.setup()
        await web.UnixSite(runner, socket).start()
        found = await asyncio.to_thread(Client(socket).get, "ipvs", "connections")
        await runner.cleanup()
        return found

    return asyncio.run(run())


@pytest.mark.parametrize("count", [0, 1, CHUNK, 3 * CHUNK + 1])
def test_connections_are_sent_as_they_are_read(tmp_path, count):
    lines = [f"TCP {n} \u00b2" for n in range(count)]
    assert listed(tmp_path, "".join(f"{line}\n" for line in lines)) == lines


def test_a_connection_table_is_read_in_pieces(tmp_path):
    """However many there are, no more than some lines are held at once."""
    table = tmp_path / "ip_vs_conn"
    table.write_text("TCP\n" * (2 * CHUNK + 1))

    async def pieces():
        with table.open() as lines:
            return [piece async for piece in json_array(lines)]

    found = asyncio.run(pieces())
    assert len(found) == 4
    assert json.loads(b"".join(found)) == ["TCP"] * (2 * CHUNK + 1)
