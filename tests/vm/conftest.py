"""Tests on a kernel with IPVS: `make vm-test` runs them in a virtual machine where the
running kernel has none, and natively where it has."""

import os
import subprocess
from pathlib import Path

import pytest
from namespaces import in_new_namespace

from lbctl.dataplane.ipvs.plane import IpvsPlane


def missing() -> str:
    """What keeps these tests from running here, and the command that helps; or nothing."""
    if os.geteuid() != 0:
        return "needs root: sudo make vm-test"
    subprocess.run(["modprobe", "-q", "ip_vs"], check=False, stderr=subprocess.DEVNULL)
    if not Path("/proc/net/ip_vs").exists():
        return "this kernel has no IPVS: `make vm-test` boots one that has"
    return ""


@pytest.fixture(scope="session", autouse=True)
def _ipvs_kernel():
    if reason := missing():
        pytest.skip(reason)


@pytest.fixture
def own_namespace(_ipvs_kernel):
    """This thread in a network namespace, and so an IPVS table, of its own."""
    with in_new_namespace():
        yield


@pytest.fixture
def intent(tmp_path):
    return tmp_path / "ipvs.json"


@pytest.fixture
def plane(own_namespace, intent):
    plane = IpvsPlane(intent)
    yield plane
    plane.close()
