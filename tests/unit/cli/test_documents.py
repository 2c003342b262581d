"""The manual page and the API's description name what there is."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from lbctl.cli.main import VERBS, lbctl
from lbctl.config import gslb_schema, json_schema
from lbctl.daemon import api

from .test_options import COMMANDS, NO_JSON, options

ROOT = Path(__file__).parents[3]
MAN = (ROOT / "docs" / "man" / "lbctl.1.md").read_text()
API = (ROOT / "docs" / "api.md").read_text()


# What the manual says once, of every command that has it.
GENERAL = {"--json", "-j", "--dry-run"}
OF_CHANGES = {"--force", "--reason", "--for"}


def entries(command: str) -> list[str]:
    """The manual's paragraphs whose synopsis is that of a command: `**get hooks**`, or
    `**get services**|**hooks**`."""
    group, _, last = command.rpartition(" ")
    own = re.escape(f"**{command}**")
    among = rf"\*\*{group} \w+\*\*\S*\|\*\*{last}\*\*"
    synopsis = re.compile(rf"{own}|{among}" if group else own)
    paragraphs = [one for one in re.split(r"\n\n+", MAN) if one.startswith("**")]
    return [one for one in paragraphs if synopsis.search(one.partition("\n:   ")[0])]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_manual_has_every_command_with_every_option(command: str) -> None:
    found = "\n".join(entries(command))
    assert found, f"lbctl {command}: no entry"
    hidden = {opt for one in COMMANDS[command].params for opt in one.opts if is_hidden(one)}
    general = GENERAL | (OF_CHANGES if options(command) >= OF_CHANGES else set())
    for option in sorted(options(command) - hidden - general):
        if option.startswith("-"):
            written = f"**{option.replace('--', chr(92) + '--')}**"
            assert written in found, f"lbctl {command}: no word of {option}"


def is_hidden(one: click.Parameter) -> bool:
    return isinstance(one, click.Option) and one.hidden


def test_the_manual_has_the_options_of_groups_and_those_it_says_once() -> None:
    groups = [lbctl, *(lbctl.get_command(click.Context(lbctl), verb) for verb in VERBS)]
    found = {opt for one in groups if isinstance(one, click.Group) for opt in flags(one)}
    assert found >= {"--socket", "--name", "--gslb-socket"}
    for option in (found - {"--version"}) | GENERAL | OF_CHANGES:
        assert re.search(rf"[* ]{re.escape(option.replace('--', chr(92) + '--'))}\*\*", MAN), option


def flags(command: click.Command) -> set[str]:
    return {opt for one in command.params for opt in one.opts if opt.startswith("-")}


def test_the_manual_says_which_commands_do_not_answer_programs() -> None:
    [said] = re.findall(r"no answer in JSON of (.*?);", MAN, re.DOTALL)
    assert set(re.findall(r"\*\*([a-z ]+)\*\*", said)) == NO_JSON


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
