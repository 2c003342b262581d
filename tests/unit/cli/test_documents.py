"""The manual page and the API's description name what there is."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lbctl.cli.main import VERBS
from lbctl.config import gslb_schema, json_schema
from lbctl.daemon import api

ROOT = Path(__file__).parents[3]
MAN = (ROOT / "docs" / "man" / "lbctl.1.md").read_text()
API = (ROOT / "docs" / "api.md").read_text()


@pytest.mark.parametrize("verb", VERBS)
def test_the_manual_has_every_verb(verb: str) -> None:
    assert re.search(rf"\*\*{verb}\b", MAN)


def routes() -> list[tuple[str, str]]:
    """What the daemon's own router has, whichever file put it there."""
    parts: Any = None  # nobody is asked anything
    table = api.application(parts).router.routes()
    return [(one.method, one.resource.canonical) for one in table if one.resource is not None]


def test_the_description_of_the_api_has_every_route() -> None:
    found = [(method, path) for method, path in routes() if method != "HEAD"]
    assert len(found) > 25
    for method, route in found:
        path = re.sub(r"\{(\w+)\}", lambda match: match[1].upper(), route)
        path = path.replace("/services/SERVICE", "/services/NAME")
        written = path if method == "GET" else f"{method} {path}"
        # In a row of a table: a row that is cut off from its table is shown as text.
        assert re.search(rf"(?<=\|\n)\| `{re.escape(written)}[`?\[]", API), written


def sections(schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every key of the file, with the section that it is a key of."""
    yield from (("File", key) for key in schema["properties"])
    for name, section in schema["$defs"].items():
        yield from ((name, key) for key in section.get("properties", ()))


def document_of(section: str) -> str:
    """Where a section is described, if not with the others."""
    if section.startswith(("Router", "Track", "Notify")):
        return "vrrp.md"
    return "gslb.md" if section in GSLB else "config.md"


GSLB = {
    name for name, one in vars(gslb_schema).items()
    if isinstance(one, type) and one.__module__ == gslb_schema.__name__
}  # fmt: skip


@pytest.mark.parametrize(("section", "key"), sorted(set(sections(json_schema()))))
def test_every_key_of_the_file_is_explained(section: str, key: str) -> None:
    document = document_of(section)
    text = (ROOT / "docs" / document).read_text()
    code = re.findall(r"```.*?```|`[^`]+`", text, re.DOTALL)
    assert any(re.search(rf"\b{key}\b", one) for one in code), f"{section}.{key}: not in {document}"
