"""Labs for tests: each under a name of its own, gone when its tests are done."""

from collections.abc import Iterator

import pytest

from lbctl.lab import Lab, standard


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The standard lab, shared by a module's tests: leave it as you found it."""
    with Lab(standard()) as made:
        yield made
