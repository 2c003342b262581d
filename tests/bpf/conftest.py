import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lbctl.dataplane.xdp import nic
from tests.bpf.gateway import make_links, own_network_namespace, remove_pins

BPFFS = Path("/sys/fs/bpf")


@contextmanager
def directory_of_pins() -> Iterator[Path]:
    directory = BPFFS / f"lbctl-test-{uuid.uuid4().hex[:8]}"
    nic.ensure_bpffs(directory)
    yield directory
    remove_pins(directory)


@contextmanager
def namespace_with_links() -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("needs root to make namespaces and load programs: sudo make test")
    with own_network_namespace():
        make_links()
        yield


@pytest.fixture
def links() -> Iterator[None]:
    """front and back in a network namespace of this test's own."""
    with namespace_with_links():
        yield


@pytest.fixture
def pins(links: None) -> Iterator[Path]:
    """A directory of pins of its own, removed afterwards."""
    with directory_of_pins() as directory:
        yield directory


@pytest.fixture(scope="module")
def shared_links() -> Iterator[None]:
    """The same, for all tests of a module."""
    with namespace_with_links():
        yield


@pytest.fixture(scope="module")
def shared_pins(shared_links: None) -> Iterator[Path]:
    with directory_of_pins() as directory:
        yield directory
