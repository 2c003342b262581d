"""One file on both gateways of a pair, or on neither.

    here                               there
    try it                             .
    Propose  ------------------------> try it; armed, with what runs now
    <------------------------  Vote    .
    run it                             .
    Switch   ------------------------> run it; back again by itself without Seal in time
    <------------------------  Vote    .
    Seal     ------------------------> kept
    <------------------------  Vote    .

Whatever is missing or refused on the way back ends in Undo and in what ran before, on both. A
line that is cut while Seal is on its way can leave one of them with the new file: then
`lbctl ha peer` says that the file is not the same.
"""

import asyncio
import secrets
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import assert_never

from lbctl.config import MAX_BYTES
from lbctl.daemon.control import Control, Manner, Outcome
from lbctl.daemon.journal import Journal
from lbctl.daemon.loop import ReconcileLoop
from lbctl.errors import InvalidConfig, LbctlError, Refused, Unreachable
from lbctl.events import Trouble
from lbctl.ha.words import LIMIT, Propose, Seal, Switch, Undo, Vote, Word

CONFIRM = 10.0  # seconds for each step
LARGEST = LIMIT - 4096  # of the file, compressed
SUBJECT = "pair commit"
_STAGE = {Propose: "armed", Switch: "switched", Seal: "sealed"}


@dataclass
class Armed:
    """A file that the peer proposed. before: the generation that ran then. after: the one that
    runs it."""

    proposal: Propose
    before: int
    after: int | None = None
    switched: bool = False
    timer: asyncio.TimerHandle | None = None


@dataclass
class PairCommit:
    """send: to the peer; False where there is no line."""

    control: Control
    loop: ReconcileLoop
    journal: Journal
    send: Callable[[Word], bool]
    confirm: float = CONFIRM
    _votes: dict[tuple[str, str], asyncio.Future[str]] = field(default_factory=dict)
    _armed: Armed | None = None
    _busy: bool = False
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    # --- here -----------------------------------------------------------------------------

    async def apply(self, text: bytes, origin: str, manner: Manner, own: bool) -> Outcome:
        """Run `text` on both gateways. Raises LbctlError, and then neither runs it."""
        if self._busy or self._armed is not None:
            raise Refused("pair commit: another one is under way", "try again in half a minute")
        self._busy = True
        number = secrets.token_hex(8)
        try:
            trial = await self.control.take_file(text, origin, replace(manner, dry_run=True), own)
            await self._propose(number, text, origin, manner.by)
            if manner.dry_run:
                self.send(Undo(number))
                return trial
            return await self._switch(number, text, origin, manner, own)
        finally:
            self._busy = False

    async def _propose(self, number: str, text: bytes, origin: str, by: str) -> None:
        packed = zlib.compress(text)
        if len(packed) > LARGEST:
            raise Refused(f"pair commit: the file is too large ({len(packed)} bytes compressed)")
        if refused := await self._ask(Propose(number, packed, origin, by), "armed"):
            self.send(Undo(number))
            raise Refused(f"the peer refuses the file: {refused}", "nothing was changed on either")

    async def _switch(
        self, number: str, text: bytes, origin: str, manner: Manner, own: bool
    ) -> Outcome:
        before = self.control.intent.generation
        outcome = await self.control.take_file(text, origin, manner, own)
        try:
            refused = await self._settled()
            refused = refused or await self._ask(Switch(number), "switched")
            refused = refused or await self._ask(Seal(number), "sealed")
        except LbctlError as error:
            refused = str(error)
        if refused:
            self.send(Undo(number))
            await self._back(before, outcome.generation, "the pair did not confirm")
            raise LbctlError(f"rolled back on both gateways: {refused}")
        return outcome

    async def _ask(self, word: Propose | Switch | Seal, stage: str) -> str:
        """Send it; return why the peer refuses, "" where it does not."""
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._votes[word.id, stage] = answer
        try:
            if not self.send(word):
                hint = "`lbctl ha peer` says why; `lbctl apply` changes this gateway alone"
                raise Unreachable("there is no line to the peer", hint)
            async with asyncio.timeout(self.confirm):
                return await answer
        except TimeoutError:
            return f"the peer did not answer within {self.confirm:g} s"
        finally:
            del self._votes[word.id, stage]

    # --- there ----------------------------------------------------------------------------

    def hear(self, word: Propose | Switch | Seal | Undo | Vote) -> None:
        """What the peer says; the line does not wait for what it takes."""
        if isinstance(word, Vote):
            answer = self._votes.get((word.id, word.stage))
            if answer is not None and not answer.done():
                answer.set_result(word.refused)
            return
        task = asyncio.create_task(self._in_turn(word))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cut(self) -> None:
        """The line is down. Who only proposed is gone; who switched may come back, and has its
        time."""
        if self._armed is not None and not self._armed.switched:
            self._disarm()

    async def _in_turn(self, word: Propose | Switch | Seal | Undo) -> None:
        async with self._turn:
            await self._do(word)

    async def _do(self, word: Propose | Switch | Seal | Undo) -> None:
        if isinstance(word, Undo):
            await self._undo(word.id, "the peer took it back")
            return
        try:
            match word:
                case Propose():
                    refused = await self._arm(word)
                case Switch():
                    refused = await self._run(word)
                case Seal():
                    refused = self._keep(word)
                case _:
                    assert_never(word)
        except InvalidConfig as error:
            refused = "; ".join(error.faults[:5])
        except LbctlError as error:
            refused = str(error)
        self.send(Vote(word.id, _STAGE[type(word)], refused))

    async def _arm(self, word: Propose) -> str:
        if self._busy or (self._armed is not None and self._armed.switched):
            return "another pair commit is under way"
        text = _unpacked(word.text)
        await self.control.take_file(text, word.origin, Manner(word.by, dry_run=True))
        self._disarm()
        self._armed = Armed(word, self.control.intent.generation)
        self._wind(self._armed)
        return ""

    def _wind(self, armed: Armed) -> None:
        """It ends by itself, unless the peer goes on in time."""
        if armed.timer is not None:
            armed.timer.cancel()
        end = Undo(armed.proposal.id)
        loop = asyncio.get_running_loop()
        armed.timer = loop.call_later(3 * self.confirm, lambda: self.hear(end))

    def _disarm(self) -> None:
        if self._armed is not None and self._armed.timer is not None:
            self._armed.timer.cancel()
        self._armed = None

    async def _run(self, word: Switch) -> str:
        armed = self._armed
        if armed is None or armed.proposal.id != word.id:
            return "nothing of that kind was proposed"
        armed.switched = True
        proposal = armed.proposal
        self._wind(armed)
        text = _unpacked(proposal.text)
        outcome = await self.control.take_file(text, proposal.origin, Manner(proposal.by))
        armed.after = outcome.generation
        return await self._settled()

    def _keep(self, word: Seal) -> str:
        armed = self._armed
        if armed is None or armed.proposal.id != word.id or not armed.switched:
            return "it was taken back already"
        self._disarm()
        return ""

    async def _undo(self, number: str, why: str) -> None:
        armed = self._armed
        if armed is None or armed.proposal.id != number:
            return
        self._disarm()
        if armed.after is not None:
            await self._back(armed.before, armed.after, why)

    # --- both -----------------------------------------------------------------------------

    async def _settled(self) -> str:
        """Until the data path has it; why it does not, where something new is refused."""
        stuck = set(self.loop.reconciler.stuck)
        try:
            async with asyncio.timeout(self.confirm):
                await self.loop.settle()
        except TimeoutError:
            return f"the data path did not answer within {self.confirm:g} s"
        fresh = [one.error for s, one in self.loop.reconciler.stuck.items() if s not in stuck]
        return "; ".join(fresh[:3])

    async def _back(self, before: int, after: int, why: str) -> None:
        """To what ran before, unless somebody has applied another file since."""
        self.journal.tell(Trouble(SUBJECT, f"back to generation {before}: {why}"))
        if self.control.intent.generation == after != before:
            try:
                await self.control.rollback(before, Manner("lbctl", force=True))
            except LbctlError as error:
                self.journal.tell(Trouble(SUBJECT, f"cannot go back: {error}"))


def _unpacked(data: bytes) -> bytes:
    """Raises InvalidConfig."""
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(data, MAX_BYTES)
    except zlib.error as error:
        raise InvalidConfig([f"the proposed file is garbage: {error}"]) from None
    if inflater.unconsumed_tail:
        raise InvalidConfig(["the proposed file is too large"])
    return text
