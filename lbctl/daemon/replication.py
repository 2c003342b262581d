"""The line to the other gateway of a pair: one connection over mutual TLS, in both directions.

The gateway with the smaller address listens, the other one calls. Nothing here is on the way
of a packet: a peer that is slow, silent or lies costs at most its line.
"""

import asyncio
import math
import os
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import assert_never

from lbctl.daemon.ownership import ownership
from lbctl.daemon.paircommit import PairCommit
from lbctl.daemon.shapes import ReplicationView
from lbctl.daemon.share import Share
from lbctl.errors import LbctlError
from lbctl.events import PeerCut, PeerMet
from lbctl.ha.words import (
    VERSION,
    Ack,
    Again,
    Batch,
    Begin,
    Fault,
    Hello,
    Propose,
    Seal,
    Summary,
    Switch,
    Undo,
    Unframer,
    Vote,
    Word,
    frame,
)
from lbctl.model import Replication
from lbctl.mutualtls import client_context, pem_stamp, server_context

BEAT = 0.05  # seconds between looks at what changed
PAUSES = 2.0  # times: as long as a look took, at least, until the next
SUMMARY = 1.0  # between signs of life
SILENCE = 5.0  # without one the line is given up
PAUSE = 1.0  # between two calls
ROLES = 3.0  # to wait for the VRRP process before the first call
LOOK = 2.0  # between looks at the files of certificates
ROOM = 256 << 10  # bytes that may wait for a slow peer, beside what is on its way
UNREAD = 4 << 20  # bytes of answers, too; more than a peer that reads ever leaves
PIECE = 256 << 10
MOST_CUTS = 32  # reasons that are remembered
CALL_FAILED = "Connect call failed"  # asyncio's words, in place of the system's
LAGS = 2000  # the last ones, for percentiles
CLOSED = "closed by the peer"
NOT_A_WORD = "closed without a word: does the peer take our certificate?"  # TLS 1.3 says no more

Stamp = tuple[tuple[int, int], ...]


class Cut(Exception):
    """The line is down; why."""


@dataclass
class Counts:
    """Totals since the daemon started. cuts: lines lost, by reason; the last one is last."""

    lines: int = 0
    resyncs: int = 0
    lost: int = 0
    cuts: dict[str, int] = field(default_factory=dict)
    lags: deque[float] = field(default_factory=lambda: deque(maxlen=LAGS))


@dataclass
class Replicator:
    """peer: its last Summary; None without a line."""

    share: Share
    node: str
    file: Callable[[], str]
    peer: Summary | None = None
    peer_node: str = ""
    counts: Counts = field(default_factory=Counts)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _roles: asyncio.Event = field(default_factory=asyncio.Event)
    _known: asyncio.Event = field(default_factory=asyncio.Event)
    _room: asyncio.Event = field(default_factory=asyncio.Event)
    _line: asyncio.Task[None] | None = None
    _answers: deque[Word] = field(default_factory=deque)
    _told: str = ""
    _following: bool = False
    _taking: bool = False

    def __post_init__(self) -> None:
        share = self.share
        self.commit = PairCommit(share.control, share.loop, share.journal, self.send)

    def send(self, word: Word) -> bool:
        """Say something beside what is replicated; False without a line."""
        if self.peer is None:
            return False
        self._answers.append(word)
        self._room.set()
        return True

    def tell_changes(self) -> None:
        """The configuration may want another line than before, or have other listens."""
        self._news.set()
        self._roles.set()

    def roles_changed(self) -> None:
        self._roles.set()
        self._known.set()

    @property
    def wanted(self) -> Replication | None:
        return self.share.control.world.config.gateway.replication

    @property
    def synced(self) -> bool:
        """Whether all that the peer remembers is held here, and in place: not while another
        role may make more of it ours to hold."""
        if self.peer is None or self._following or self._taking or self._roles.is_set():
            return False
        return self.share.replica.whole and self.share.installed

    async def keep(self) -> None:
        """For ever: the line that the configuration wants."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_roles())
            while True:
                self._news.clear()
                wanted = self.wanted
                if wanted is None:
                    await self._news.wait()
                    continue
                line = asyncio.create_task(self._run(wanted))
                try:
                    while self.wanted == wanted:
                        await self._news.wait()
                        self._news.clear()
                finally:
                    await _end(line)

    async def _follow_roles(self) -> None:
        while True:
            await self._roles.wait()
            self._roles.clear()
            if self.wanted is None:
                continue
            self._following = True
            try:
                await self.share.roles_changed()
                self._following = False
                self.share.routers.tell_synced(self.synced)
            except Exception as error:
                self.share.doubt(error)
                await asyncio.sleep(PAUSE)
                self._roles.set()

    async def _run(self, wanted: Replication) -> None:
        """A line, and after it another."""
        await self._wait_for_roles()
        while True:
            try:
                if wanted.calls:
                    await self._call(wanted)
                else:
                    await self._listen(wanted)
            except Exception as error:
                self._tell_cut(wanted, error)
            await asyncio.sleep(PAUSE)

    async def _wait_for_roles(self) -> None:
        """A moment, so that the first thing the peer hears is not that nothing is ours."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ROLES):
                while self.share.control.world.config.routers and not self.share.routers.roles:
                    self._known.clear()
                    await self._known.wait()

    async def _call(self, wanted: Replication) -> None:
        async with asyncio.timeout(SILENCE):
            reader, writer = await asyncio.open_connection(
                str(wanted.peer.address),
                wanted.peer.port,
                ssl=client_context(wanted),
                server_hostname=wanted.name,
                local_addr=(str(wanted.listen.address), 0),
            )
        await self._talk(wanted, reader, writer)

    async def _listen(self, wanted: Replication) -> None:
        """Take calls; a new one replaces the old, whose end may not have been heard."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if wanted.name not in _names(writer):
                self._tell_cut(wanted, Cut("its certificate has another name"))
                writer.close()
                return
            while self._line is not None and not self._line.done():  # others call as well
                await _end(self._line)
            if self.wanted != wanted:  # meanwhile
                writer.transport.abort()
                return
            self._line = asyncio.current_task()
            with suppress(asyncio.CancelledError):
                try:
                    await self._talk(wanted, reader, writer)
                except Exception as error:
                    self._tell_cut(wanted, error)

        server = await asyncio.start_server(
            answer,
            str(wanted.listen.address),
            wanted.listen.port,
            ssl=server_context(wanted),
            ssl_handshake_timeout=SILENCE,
        )
        stamp = pem_stamp(wanted)
        try:
            while True:
                await asyncio.sleep(LOOK)
                if self._renewed(wanted, stamp):
                    return
        finally:
            server.close()  # no wait_closed(): from Python 3.12.1 on it waits for the line
            if self._line is not None:
                await _end(self._line)

    def _renewed(self, wanted: Replication, stamp: Stamp) -> bool:
        """Whether there are other certificates, and good ones: while they are half written,
        the line goes on with those that it has."""
        try:
            if pem_stamp(wanted) == stamp:
                return False
            server_context(wanted)
        except OSError as error:
            said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            self.share.complain(f"certificates that are renewed cannot be read: {said}")
            return False
        return True

    def view(self) -> ReplicationView:
        """How replication does."""
        share, wanted, peer = self.share, self.wanted, self.peer
        lags = sorted(self.counts.lags)
        held = share.replica.state
        return ReplicationView(
            configured=wanted is not None,
            peer=str(wanted.peer) if wanted is not None else "",
            node=self.peer_node if peer is not None else "",
            connected=peer is not None,
            synced=self.synced,
            copied=peer is not None and share.author.copied,
            lag=share.author.lag(share.clock.now()) if peer is not None else None,
            lag_p99=lags[int(len(lags) * 0.99)] if lags else None,
            behind=share.author.behind,
            entries=len(share.author.state),
            held=len(held),
            flows=sum(1 for key in share.author.state if key[:1] == b"f"),
            held_flows=sum(1 for key in held if key[:1] == b"f"),
            own=tuple(sorted(map(str, share.own))),
            theirs=tuple(sorted(map(str, share.theirs - share.own))),
            owners=tuple(
                ownership(share.control.world.config, share.routers.roles, share.own, share.theirs)
            ),
            same_file=None if peer is None else peer.file == self.file(),
            same_table=None if peer is None else peer.table == share.table_digest(),
            differ=tuple(sorted(share.hearsay.differing_verdicts())),
            lines=self.counts.lines,
            lost=self.counts.lost,
            copies=share.author.copies,
            resyncs=self.counts.resyncs,
            faults=dict(share.replica.faults),
            cuts=dict(self.counts.cuts),
            trouble=share.trouble,
        )

    # --- one line -------------------------------------------------------------------------

    async def _talk(
        self, wanted: Replication, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Until it is down, and then Cut says why."""
        share = self.share
        self._answers.clear()
        try:
            await share.roles_changed()
            await share.collect(whole=True)
            writer.write(frame(share.replica.hello(VERSION, self.node)))
            self._sign(writer)
            unframer, words = Unframer(), deque[Word]()
            while not words:
                words.extend(unframer.feed(await self._read(reader, NOT_A_WORD)))
            self._greet(wanted, words.popleft())
            speaking = asyncio.create_task(self._speak(writer))
            try:
                await self._hear(words)
                while True:
                    if speaking.done():
                        await speaking
                    await self._hear(unframer.feed(await self._read(reader)))
            finally:
                await _end(speaking)
        except Fault as fault:
            raise Cut(str(fault)) from None
        except (OSError, TimeoutError, Cut, LbctlError):
            raise
        except Exception as error:  # whatever a peer says, it costs this line and no more
            share.doubt(error)
            raise Cut(f"what it says cannot be carried out: {error!r}") from error
        finally:
            share.replica.cut()
            self.commit.cut()
            self.peer = None
            share.routers.tell_synced(False)
            writer.transport.abort()

    def _greet(self, wanted: Replication, word: Word) -> None:
        if not isinstance(word, Hello):
            raise Fault(f"began with {type(word).__name__}, not with Hello")
        if word.version != VERSION:
            ours = f"we {VERSION} (install one release on both)"
            raise Fault(f"speaks version {word.version}, {ours}")
        self.share.author.start(word, self.share.clock.now())
        self.peer_node, self._told = word.node, ""
        self.counts.lines += 1
        self.share.journal.tell(PeerMet(str(wanted.peer), word.node))

    async def _read(self, reader: asyncio.StreamReader, closed: str = CLOSED) -> bytes:
        try:
            async with asyncio.timeout(SILENCE):
                data = await reader.read(PIECE)
        except TimeoutError:
            raise Cut(f"silent for {SILENCE:g} s") from None
        if not data:
            raise Cut(closed)
        return data

    async def _hear(self, words: Iterable[Word]) -> None:
        share, now = self.share, self.share.clock.now()
        answers: list[Word] = []
        again = False  # however often it is said at once
        for word in words:
            match word:
                case Summary():
                    if not math.isfinite(word.clock):
                        raise Fault(f"has a clock that shows {word.clock}")
                    self.peer, share.offset = word, now - word.clock
                case Begin():
                    share.replica.begin(word)
                case Batch():
                    if (answer := share.replica.take(word)) is not None:
                        answers.append(answer)
                case Ack():
                    waited = share.author.acknowledged(word)
                    self.counts.lags.extend(now - since for since in waited)
                    self._room.set()
                case Again():
                    self.counts.resyncs += 1
                    again = True
                case Propose() | Switch() | Seal() | Undo() | Vote():
                    self.commit.hear(word)
                case Hello():
                    raise Fault("said Hello twice")
                case _:
                    assert_never(word)
        self._answers.extend(answers)
        if again:
            share.author.copy(now)
        if answers or again:
            self._room.set()
        if changed := share.replica.drain():
            self._taking = True
            try:
                await share.take(changed)
            except Fault:
                share.replica.distrust("nonsense")
                raise
            finally:
                self._taking = False
        share.routers.tell_synced(self.synced)

    async def _speak(self, writer: asyncio.StreamWriter) -> None:
        signed = self.share.clock.now()
        while True:
            now = self.share.clock.now()
            if now >= signed + SUMMARY:
                signed = now
                await self.share.retry()
                self._sign(writer)
            await self.share.collect()
            took = self.share.clock.now() - now
            self._pump(writer)
            until = asyncio.get_running_loop().time() + max(BEAT, PAUSES * took)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    while True:
                        self._room.clear()
                        await self._room.wait()
                        self._pump(writer)

    def _pump(self, writer: asyncio.StreamWriter) -> None:
        """As much as the peer has room for."""
        while self._answers:
            writer.write(frame(self._answers.popleft()))
        if writer.transport.get_write_buffer_size() > UNREAD:
            raise Cut("does not read what it is told")
        while writer.transport.get_write_buffer_size() < ROOM:
            if (word := self.share.author.take()) is None:
                return
            writer.write(frame(word))

    def _sign(self, writer: asyncio.StreamWriter) -> None:
        digest = self.share.table_digest()
        writer.write(frame(Summary(self.share.clock.now(), self.file(), digest)))

    def _tell_cut(self, wanted: Replication, error: Exception) -> None:
        """Once for each reason."""
        text, cuts = _why(error), self.counts.cuts
        self.counts.lost += 1
        cuts[text] = cuts.pop(text, 0) + 1
        if len(cuts) > MOST_CUTS:  # some have words that the peer chose
            del cuts[next(iter(cuts))]
        if text != self._told:
            self._told = text
            self.share.journal.tell(PeerCut(str(wanted.peer), text))


def _why(error: Exception) -> str:
    """In words that say what to look for."""
    match error:
        case TimeoutError(errno=None):
            return f"no answer within {SILENCE:g} s"
        case OSError(errno=int(errno), strerror=str(text)) if text.startswith(CALL_FAILED):
            return os.strerror(errno)
        case OSError() | Cut() | LbctlError():
            return getattr(error, "strerror", None) or str(error) or type(error).__name__
        case _:
            return repr(error)


def _names(writer: asyncio.StreamWriter) -> set[str]:
    """The names in the certificate of who called."""
    found = writer.get_extra_info("peercert") or {}
    names = found.get("subjectAltName", ())
    return {value for kind, value in names if kind in ("DNS", "IP Address")}


async def _end(task: asyncio.Task[None]) -> None:
    """Returns when it has ended; why, nobody asks. Whoever waits may be cancelled in turn."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.exception()
