import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from lbctl.dataplane.xdp import nic
from tests.bpf.gateway import make_links, own_network_namespace, remove_pins

BPFFS = Path("/sys/fs/bpf")


@pytest.fixture(scope="module")
def pins() -> Iterator[Path]:
    """A directory of pins of its own, removed afterwards."""
    if os.geteuid() != 0:
        pytest.skip("needs root to load programs: sudo make test")
    directory = BPFFS / f"lbctl-test-{uuid.uuid4().hex[:8]}"
    nic.ensure_bpffs(directory)
    yield directory
    remove_pins(directory)


@pytest.fixture(scope="module")
def links() -> Iterator[None]:
    """front and back in a network namespace of this test's own."""
    if os.geteuid() != 0:
        pytest.skip("needs root to make namespaces: sudo make test")
    with own_network_namespace():
        make_links()
        yield
