"""What the manual promises of every verb: `-j`, and `--dry-run` where it changes something."""

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from lbctl.cli.main import VERBS, lbctl
from lbctl.errors import Exit

# They run until they are ended, become something else, or speak another tool's language.
NO_JSON = {"daemon", "vrrp", "gslb serve", "ipvsadm", "lab exec", "lab demo"}
# `gslb validate` tries what `gslb reload` does; a certificate changes nothing that runs.
NO_DRY_RUN = NO_JSON | {"gslb reload", "agent cert"}
ASKS = {
    *("validate", "diff", "export", "describe", "why", "check", "stats", "monitor", "trace"),
    *("ha status", "ha peer", "ha drills", "agent status", "lab status"),
    *("gslb validate", "gslb status", "gslb explain", "gslb simulate"),
}


def leaves(command: click.Command, name: str = "") -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command)
    for word in command.list_commands(context):
        below = command.get_command(context, word)
        assert below is not None
        yield from leaves(below, f"{name} {word}".strip())


COMMANDS = dict(leaves(lbctl))


def options(name: str) -> set[str]:
    return {option for one in COMMANDS[name].params for option in one.opts}


def test_what_is_listed_here_is_there() -> None:
    assert len(COMMANDS) > len(VERBS)
    assert COMMANDS.keys() >= NO_DRY_RUN | ASKS


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - NO_JSON))
def test_every_verb_answers_programs(name: str) -> None:
    assert "--json" in options(name)


@pytest.mark.parametrize(
    "name",
    sorted(n for n in COMMANDS.keys() - NO_DRY_RUN - ASKS if not n.startswith("get ")),
)
def test_every_change_can_be_tried(name: str) -> None:
    assert "--dry-run" in options(name)


@pytest.mark.parametrize("words", [["describe", ""], ["daemon", "--datapath", "fkae"]])
def test_what_can_mean_nothing_is_wrong_usage(words: list[str]) -> None:
    ran = CliRunner().invoke(lbctl, words)
    assert ran.exit_code == Exit.USAGE, ran.output
