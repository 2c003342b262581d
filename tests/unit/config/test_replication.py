"""The section `replication` of a gateway."""

import pytest

from lbctl.config import dump, parse
from lbctl.errors import InvalidConfig
from lbctl.model import Endpoint, Replication

FILE = """\
apiVersion: lbctl/v1
gateway: {front: eth0}
gateways:
  gw1:
    replication:
      {listen: 10.0.0.1:7400, peer: 10.0.0.2:7400, name: gw2, certificate: /c, key: /k, ca: /a}
  gw2: {}
services:
  web: {listen: 192.0.2.10:80/tcp, servers: {a: 198.51.100.11}}
virtual_routers:
  edge: {vrid: 7, addresses: 192.0.2.10, preempt: when-synced}
"""
LINE = Replication(
    Endpoint.parse("10.0.0.1:7400"), Endpoint.parse("10.0.0.2:7400"), "gw2", "/c", "/k", "/a"
)


def test_it_is_read_and_written() -> None:
    config = parse(FILE, node="gw1").config
    assert config.gateway.replication == LINE
    assert parse(dump(config)).config.gateway == config.gateway


def test_without_it_nothing_is_ever_in_sync() -> None:
    with pytest.raises(InvalidConfig, match="when-synced needs `replication` of the gateway"):
        parse(FILE, node="gw2")


def test_a_copy_without_connections_is_warned_of() -> None:
    file = FILE.replace("front: eth0", "front: eth0, datapath: ipvs")
    before = parse(FILE, node="gw1").warnings
    *others, said = parse(file, node="gw1").warnings
    assert len(others) == len(before)
    assert "edge.preempt: when-synced does not wait for connections of datapath ipvs" in said


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("peer: 10.0.0.2:7400", "peer: 10.0.0.1:7400", "peer and listen are both 10.0.0.1:7400"),
        ("peer: 10.0.0.2:7400", "peer: 10.0.0.2", "peer: '10.0.0.2'"),
        ("name: gw2, ", "", "'name' is missing"),
        ("ca: /a", "ca: /a, password: x", "replication.password: unknown key"),
    ],
)
def test_a_fault_is_named_with_its_place(before: str, after: str, said: str) -> None:
    with pytest.raises(InvalidConfig) as raised:
        parse(FILE.replace(before, after), node="gw1")
    assert any(said in fault for fault in raised.value.faults), raised.value.faults
