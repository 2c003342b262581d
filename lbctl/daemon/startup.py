"""What a daemon starts from: the running generation, with what people ordered and checks
saw, and then the file, if it says something else than when it was last taken.

So a restart changes nothing, and an edited file with a restart does what its author means.
"""

import asyncio
from pathlib import Path

import msgspec

from lbctl.daemon.clock import Clock
from lbctl.daemon.control import Intent, ReadConfig, Standing
from lbctl.daemon.journal import Journal
from lbctl.daemon.overrides import Override
from lbctl.daemon.reader import Read, own_file
from lbctl.daemon.state import Saved, StateDirectory, digest, move_override, restore_facts
from lbctl.errors import LbctlError, faults_of
from lbctl.events import ConfigRefused, ConfigTaken, StateSetAside
from lbctl.world import World


async def stand_up(
    file: Path, directory: StateDirectory, journal: Journal, clock: Clock, read: ReadConfig
) -> Standing:
    """What is wrong with the file, or with the disk that should keep it, is told where there is
    something to go on with. Raises LbctlError where there is nothing."""
    saved = _load(directory, journal)
    running = await _resume(saved, directory, journal, clock, read)
    try:
        return await _brought_up(file, running, saved, directory, journal, clock, read)
    except LbctlError as error:
        if running is None:
            raise
        journal.tell(ConfigRefused(str(file), faults_of(error), running.intent.generation))
        return running


async def _brought_up(
    file: Path,
    running: Standing | None,
    saved: Saved,
    directory: StateDirectory,
    journal: Journal,
    clock: Clock,
    read: ReadConfig,
) -> Standing:
    """What ran, brought to what the file says now. Raises LbctlError; `running` is then as it
    was."""
    text = await asyncio.to_thread(own_file, file)
    if running is not None and digest(text) == saved.taken:
        return running
    overrides = () if running is None else running.intent.overrides
    taken = await read(text, str(file), overrides)
    if running is not None and text == running.intent.text:
        running.saved = msgspec.structs.replace(running.saved, taken=digest(text))
        return running
    return await _take(text, file, taken, running, saved, directory, journal, clock)


def _load(directory: StateDirectory, journal: Journal) -> Saved:
    saved, unreadable = directory.load()
    if unreadable:
        journal.tell(StateSetAside(str(directory.set_aside()), unreadable))
    return saved or Saved()


async def _resume(
    saved: Saved, directory: StateDirectory, journal: Journal, clock: Clock, read: ReadConfig
) -> Standing | None:
    """The generation that ran, with the facts; without a state file, the newest one kept."""
    number = saved.generation or max(directory.generations(), default=0)
    if not number:
        return None
    origin = saved.origins.get(number, f"generation {number}")
    overrides = tuple(move_override(one, clock.from_wall) for one in saved.overrides)
    try:
        text = directory.generation(number)
        found = await read(text, origin, overrides)
    except LbctlError as error:
        journal.tell(ConfigRefused(f"generation {number}", faults_of(error), 0))
        return None
    world = World(found.config)
    try:
        restore_facts(world, saved, clock)
    except ValueError as error:
        journal.tell(StateSetAside(str(directory.set_aside()), str(error)))
        world = World(found.config)
    return Standing(world, Intent(text, origin, number, overrides), found, saved)


async def _take(
    text: bytes,
    file: Path,
    taken: Read,
    running: Standing | None,
    saved: Saved,
    directory: StateDirectory,
    journal: Journal,
    clock: Clock,
) -> Standing:
    number = max([0, *directory.generations()]) + 1
    await asyncio.to_thread(directory.keep_generation, number, text)
    world = World(taken.config)
    overrides: tuple[Override, ...] = ()
    if running is not None:
        world, overrides = running.world, running.intent.overrides
        world.reconfigure(taken.config, clock.now())
    journal.tell(ConfigTaken(number, str(file)))
    origins = {**saved.origins, number: str(file)}
    saved = msgspec.structs.replace(saved, taken=digest(text), origins=origins)
    return Standing(world, Intent(text, str(file), number, overrides), taken, saved)
