from dataclasses import replace

import pytest

from lbctl.dataplane.nics import Nic, Running, findings

GOOD = Nic("lan0", "ice", Running.NATIVE, 1500, False, True, False, 4, 8)


def says(nic: Nic, cpus: int = 4) -> list[tuple[bool, str]]:
    return [(one.in_the_way, one.mend) for one in findings(nic, cpus)]


def test_a_nic_that_runs_the_program_itself_needs_nothing() -> None:
    assert says(GOOD) == []


@pytest.mark.parametrize(
    ("change", "in_the_way", "mend"),
    [
        ({"lro": True}, True, "ethtool -K lan0 lro off"),
        ({"vlan_stripping": True}, True, "ethtool -K lan0 rxvlan off"),
        ({"driver": "veth"}, True, "ethtool -K PEER gro on"),
        ({"mode": Running.GENERIC}, False, "a NIC whose driver has XDP"),
        ({"mode": Running.GENERIC, "mtu": 9000}, False, "ip link set lan0 mtu 1500"),
        ({"queues": 1}, False, "ethtool -L lan0 combined 4"),
    ],
)
def test_what_is_not_as_it_should_be_comes_with_its_mend(change, in_the_way, mend) -> None:
    ((found, text),) = says(replace(GOOD, **change))
    assert found is in_the_way
    assert mend in text


def test_more_queues_than_the_nic_has_are_not_asked_for() -> None:
    assert says(replace(GOOD, queues=8), cpus=64) == []


def test_what_nobody_says_is_no_finding() -> None:
    silent = replace(GOOD, lro=None, gro=None, vlan_stripping=None, queues=None, most_queues=None)
    assert says(silent) == []
