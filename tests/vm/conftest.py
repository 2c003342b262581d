"""Tests on a kernel with IPVS: see guest.py for how they get one."""

import subprocess

import pytest

from lbctl.dataplane.ipvs.plane import IpvsPlane
from tests.bpf.gateway import own_network_namespace


@pytest.fixture
def own_namespace():
    """This thread in a network namespace, and so an IPVS table, of its own."""
    with own_network_namespace():
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield


@pytest.fixture
def intent(tmp_path):
    return tmp_path / "ipvs.json"


@pytest.fixture
def plane(own_namespace, intent):
    plane = IpvsPlane(intent)
    yield plane
    plane.close()
