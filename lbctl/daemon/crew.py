"""The probe workers: as many as the checks need, and one without VIPs where checks go through
servers."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from lbctl.daemon.assignment import Assignment, ordinary, through_servers
from lbctl.daemon.clock import Clock
from lbctl.daemon.control import Control
from lbctl.daemon.journal import Journal
from lbctl.daemon.passage import COMMAND as IN_A_NAMESPACE
from lbctl.daemon.passage import Passage
from lbctl.daemon.workers import COMMAND, WorkerKeeper
from lbctl.errors import LbctlError
from lbctl.messages import Verdict
from lbctl.world import Target

MOST = 8  # workers; more than there are processors never


@dataclass
class Crew:
    """keepers: each of one worker; the first one's always runs, the last is the one whose
    checks go through servers."""

    keepers: Sequence[WorkerKeeper]

    @classmethod
    def of(cls, control: Control, journal: Journal, clock: Clock) -> "Crew":
        most = min(MOST, os.cpu_count() or 1)
        keepers = [
            WorkerKeeper(
                control,
                journal,
                clock,
                always=number == 0,
                assignment=Assignment(partial(ordinary, number, most)),
            )
            for number in range(most)
        ]
        passage = Passage()
        keepers.append(
            WorkerKeeper(
                control,
                journal,
                clock,
                (*IN_A_NAMESPACE, *COMMAND),
                always=False,
                passage=passage,
                assignment=Assignment(through_servers, passage.mark),
            )
        )
        return cls(keepers)

    async def keep(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            for keeper in self.keepers:
                group.create_task(keeper.keep())

    def tell_changes(self) -> None:
        for keeper in self.keepers:
            keeper.tell_changes()

    async def probe_now(self, target: Target, timeout: float) -> Verdict:
        """Run one check at once. Raises LbctlError where there is no answer in time."""
        for keeper in self.keepers:
            if keeper.checks_target(target):
                return await keeper.probe_now(target, timeout)
        raise LbctlError(f"{target}: is not being checked")

    def hurry(self, target: Target) -> None:
        """Run one check at once, whatever becomes of it; one that nobody runs is no matter."""
        for keeper in self.keepers:
            keeper.hurry(target)
