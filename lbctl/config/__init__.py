"""The file: YAML in, `lbctl.model.Config` out, every fault at once with its place.

    parsed = parse(Path("lbctl.yaml").read_bytes(), "lbctl.yaml", node="gw1")

Reading a file costs pydantic's and PyYAML's import (about 0.1 s), so both are imported
when a file is read and not before: whoever needs only `Patch` does not pay.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lbctl.config.limits import MAX_BYTES
from lbctl.config.patch import JSON, Patch
from lbctl.model import Config, Datapath

if TYPE_CHECKING:
    from lbctl.config.known import Known

__all__ = ["JSON", "MAX_BYTES", "Parsed", "Patch", "dump", "json_schema", "parse"]


@dataclass(frozen=True)
class Parsed:
    """A file that was found good.

    stale: patches about something that the file no longer has; they changed nothing.
    warnings: what is valid and probably not meant, as `FILE:LINE:COLUMN: PATH: text`.
    known: for reading the same text again under other patches.
    """

    config: Config
    stale: tuple[Patch, ...] = ()
    warnings: tuple[str, ...] = ()
    known: "Known | None" = field(default=None, compare=False, repr=False)


def parse(
    text: str | bytes,
    name: str = "lbctl.yaml",
    *,
    node: str | None = None,
    patches: Sequence[Patch] = (),
    datapath: Datapath | None = None,
    tick: float | None = None,
    known: "Known | None" = None,
) -> Parsed:
    """The configuration in `text` (YAML or JSON, UTF-8, at most MAX_BYTES).

    name: the file's name in messages. node: which of `gateways` this one is; not needed
    where there is only one. patches: laid over the file, in order, before validation.
    datapath: what this one cannot do is a fault, too; `auto` asks the one that the file
    names. tick: seconds of a jiffy where it is to run; adverts too fast for the fence's clock
    are a fault, too. known: of an earlier reading, after which less is to be read; it changes
    nothing in what comes out.

    Raises InvalidConfig with every fault, in the file's order, each as
    `FILE:LINE:COLUMN: PATH: what is wrong (how to mend it)`, or with `override PATH:` in
    place of file and line where a patch is at fault.
    """
    from lbctl.config.load import load

    found, stale = load(text, name, node, patches, datapath, tick, known)
    return Parsed(found.config, stale, found.warnings, found)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the file, with descriptions, for editors."""
    from lbctl.config.schema import File

    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **File.model_json_schema(mode="validation"),
    }


def dump(config: Config) -> str:
    """`config` as YAML that `parse` reads back to an equal one; defaults are left out."""
    from lbctl.config.written import dump as dump_

    return dump_(config)
