from collections.abc import Iterator
from pathlib import Path

import pytest
from stands import GROUND, KINDS, Kind, Open

from lbctl.dataplane.port import DataPlane


@pytest.fixture(params=[pytest.param(kind, id=kind.name, marks=kind.marks) for kind in KINDS])
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    if why := kind.missing():
        pytest.skip(f"{kind.name}: {why}")
    return kind


@pytest.fixture
def stand(kind: Kind, tmp_path: Path) -> Iterator[Open]:
    with kind.stand(tmp_path) as opens:
        yield opens


@pytest.fixture
def plane(stand: Open) -> Iterator[DataPlane]:
    plane = stand()
    yield plane
    plane.close()


def pytest_sessionfinish() -> None:
    GROUND.close()
