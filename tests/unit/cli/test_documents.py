"""The manual page and the API's description name what there is."""

import re
from pathlib import Path

import pytest

from lbctl.cli.main import VERBS

ROOT = Path(__file__).parents[3]
MAN = (ROOT / "docs" / "man" / "lbctl.1.md").read_text()
API = (ROOT / "docs" / "api.md").read_text()


@pytest.mark.parametrize("verb", VERBS)
def test_the_manual_has_every_verb(verb: str) -> None:
    assert re.search(rf"\*\*{verb}\b", MAN)


def test_the_description_of_the_api_has_every_route() -> None:
    source = "".join(
        (ROOT / "lbctl" / "daemon" / name).read_text() for name in ("reading.py", "changing.py")
    )
    routes = re.findall(r'web\.(get|post|delete)\("(/[^"]*)"', source)
    assert len(routes) > 15
    for method, route in routes:
        path = re.sub(r"\{(\w+)\}", lambda match: match[1].upper(), route)
        path = path.replace("/services/SERVICE", "/services/NAME")
        written = f"`{path}" if method == "get" else f"`{method.upper()} {path}"
        assert written in API, (method, path)
