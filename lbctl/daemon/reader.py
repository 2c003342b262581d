"""Reading the configuration without holding up the event loop."""

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lbctl.config import MAX_BYTES, Patch, parse
from lbctl.configfile import read_file
from lbctl.daemon.overrides import Override
from lbctl.model import Config
from lbctl.vrrp.realtime import jiffy

if TYPE_CHECKING:
    from lbctl.config.known import Known


class Read(NamedTuple):
    """A configuration that was found good. stale: overrides about what is gone."""

    config: Config
    stale: tuple[Override, ...] = ()
    warnings: tuple[str, ...] = ()


def own_file(file: Path) -> bytes:
    """What the daemon's own file says. Raises InvalidConfig."""
    return read_file(file, MAX_BYTES, regular=True)


class ConfigReader:
    """Keeps what it found last, so that a change made live costs what it touches and not
    the file. node: whose values of a file for several gateways are taken."""

    def __init__(self, node: str | None) -> None:
        self._node = node
        self._known: Known | None = None

    async def __call__(self, text: bytes, origin: str, overrides: Sequence[Override]) -> Read:
        """Raises InvalidConfig."""
        return await asyncio.to_thread(partial(self._read, text, origin, overrides))

    def _read(self, text: bytes, origin: str, overrides: Sequence[Override]) -> Read:
        patches = [Patch(one.path, one.value) for one in overrides]
        parsed = parse(
            text, origin, node=self._node, patches=patches, tick=jiffy(), known=self._known
        )
        self._known = parsed.known
        stale = tuple(
            one for one, patch in zip(overrides, patches, strict=True) if patch in parsed.stale
        )
        return Read(parsed.config, stale, parsed.warnings)
