"""The VRRP process: `lbctl vrrp`, or `python -m lbctl.vrrp.run`.

One thread, one epoll, nothing that waits: timers first, then packets, then clients. It
goes on with what it was last told when the daemon is gone, and starts again with it.
"""

import argparse
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import assert_never

import msgspec

from lbctl.errors import InvalidConfig, LbctlError, NotPermitted
from lbctl.ha.fence import Fence
from lbctl.ha.room import claim, crowded_out
from lbctl.messages import (
    AnyMessage,
    Ask,
    Assign,
    Done,
    Event,
    Files,
    HandOver,
    ProbeNow,
    Pulse,
    Quorum,
    Reading,
    Resume,
    Role,
    RoleChange,
    Routers,
    RouterSettings,
    StandBy,
    Standing,
    Synced,
    TrackerSettings,
    Verdict,
)
from lbctl.model import Router, TrackerKind
from lbctl.said import plain
from lbctl.vrrp import chores, realtime
from lbctl.vrrp.chores import AnyChore
from lbctl.vrrp.control import PATH, Server
from lbctl.vrrp.effects import Change, Notice, Tell
from lbctl.vrrp.explain import explain
from lbctl.vrrp.helper import Helper
from lbctl.vrrp.host import Host
from lbctl.vrrp.node import Fact
from lbctl.vrrp.notify import arguments
from lbctl.vrrp.realtime import jiffy
from lbctl.vrrp.receive import Dropped
from lbctl.vrrp.router import LEASE, VirtualRouter
from lbctl.vrrp.rules import accept_rules
from lbctl.vrrp.seldom import Seldom
from lbctl.vrrp.settings import clashes, from_message, to_message, too_short

STATE = Path("/var/lib/lbctl")
RUNTIME = Path("/run/lbctl")
PINS = Path("/sys/fs/bpf/lbctl")
PRIORITY = 50
MESSAGES = 8  # read per wake-up and client
HELPER_PAUSE = 1.0  # seconds until a helper that died is started again
HELPER_END = 60.0  # seconds for what it was ordered last: notify commands have 30
CALLS = 1000  # notify commands that may wait for a helper


class Saved(msgspec.Struct, frozen=True):
    """What outlives the process. standing_by: router -> reason."""

    routers: tuple[RouterSettings, ...] = ()
    standing_by: dict[str, str] = {}


@dataclass(frozen=True)
class Options:
    """pins: where the fence's maps and programs are; None: no fence."""

    settings: Path | None = None
    control: Path = PATH
    state: Path = STATE
    runtime: Path = RUNTIME
    priority: int = PRIORITY
    pins: Path | None = None


class Process:
    """The loop and what hangs on it. lacks: what was not granted (`realtime.be_on_time`)."""

    def __init__(self, options: Options, lacks: list[str]) -> None:
        self._options = options
        self._selector = selectors.EpollSelector()
        self._timer = realtime.Timer()
        self._selector.register(self._timer, selectors.EVENT_READ, self._timer.rest)
        self._server = Server(options.control)
        self._selector.register(self._server.listener, selectors.EVENT_READ, self._accept)
        self._helper: Helper | None = None
        self._helper_at: float | None = None
        self._start_helper()
        options.runtime.mkdir(parents=True, exist_ok=True)
        record = options.runtime / "vrrp-sysctl.json"
        real_time = realtime.real_time()
        self._host = Host(self._selector, time.monotonic, record, self._tell, real_time)
        self._node = self._host.node
        self._seldom = Seldom()
        self._saved = Saved()
        self._fence: Fence | None = None
        self._fenced: dict[str, int] = {}  # interfaces that it is on, or cannot be put on
        self._unfenced = ""  # why there is none
        self._pending: Routers | None = None  # until the fence is up
        self._calls: deque[chores.Call] = deque(maxlen=CALLS)  # that no helper has yet
        self._asked: dict[str, int] = {}  # interfaces that the helper has it put up on
        self._stopping = False
        self._rules = ""  # of nft, as far as known: nothing at first
        self._seen = -1  # of `Node.changes`
        self._followed: dict[str, VirtualRouter] = {}  # those that ran then
        self._lacks = lacks
        for line in lacks:
            self.log(line)

    # --- the loop -----------------------------------------------------------------------

    def run(self) -> None:
        """Until it was stopped and every router has left."""
        self._restore()
        realtime.freeze()
        while not (self._stopping and self._node.done):
            self._timer.set(self._deadline())
            for key, _ in self._selector.select():
                self._tick()
                # An earlier one of this round may have closed it.
                if self._selector.get_map().get(key.fd) is key:
                    key.data()
            self._tick()

    def stop(self) -> None:
        """Hand over, then end; asked a second time, end without waiting for a successor."""
        again, self._stopping = self._stopping, True
        self._pending = None
        self._host.carry(self._node.stop("stopped", time.monotonic(), at_once=again))

    def close(self) -> None:
        self._host.close()
        self._server.close()
        self._call()
        if self._helper is not None:
            if self._fence is not None:
                self._helper.send(chores.TakeDown(tuple(self._fenced)))
            if self._rules != accept_rules([]):
                self._helper.send(chores.Rules(accept_rules([])))
            for chore in self._helper.finish(HELPER_END):
                if isinstance(chore, chores.Failed):
                    print(chore.text, file=sys.stderr)
        self._timer.close()
        self._selector.close()

    def on_readable(self, source: socket.socket, call: Callable[[], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, call)

    def _deadline(self) -> float | None:
        moments = [m for m in (self._host.deadline, self._helper_at) if m is not None]
        return min(moments, default=None)

    def _tick(self) -> None:
        self._host.tick()
        if self._host.moved or self._node.changes != self._seen:
            self._follow()
        if self._helper_at is not None and self._helper_at <= time.monotonic():
            self._helper_at = None
            if self._helper is None:
                self._start_helper()
            self._follow()
            self._keep()
            self._call()

    # --- what to run --------------------------------------------------------------------

    def reload(self) -> None:
        """Read the settings file again; what is wrong with it is logged and not used."""
        if self._options.settings is not None:
            try:
                self._configure(read_settings(self._options.settings))
            except LbctlError as error:
                self.log(str(error))

    def _restore(self) -> None:
        """Start with the settings file, else with what was last told."""
        path = self._options.state / "vrrp.json"
        try:
            self._saved = msgspec.json.decode(path.read_bytes(), type=Saved)
        except FileNotFoundError:
            pass
        except msgspec.MsgspecError as error:
            self.log(f"{path}: cannot be read, starting without it (lbctl apply): {error}")
        self._node.standing_by = dict(self._saved.standing_by)
        if self._options.settings is not None:
            self._configure(read_settings(self._options.settings))
        elif self._saved.routers:
            try:
                self._configure(Routers(self._saved.routers))
            except LbctlError as error:
                self.log(f"{path}: refused, starting without routers (lbctl apply): {error}")
        self._follow()

    def _configure(self, message: Routers) -> None:
        """Raises LbctlError, and changes nothing then."""
        if self._stopping:
            raise LbctlError("the VRRP process is stopping: apply again when it has started")
        routers = validated(message, self._options.pins is not None)
        self._save(Saved(message.routers, self._saved.standing_by))
        if self._put_up_fence(message):
            self._pending = message
            return
        self._pending = None
        self._host.configure(routers)

    def _follow(self) -> None:
        """What follows from the routers that run now. `_tick` calls it after each change of
        them: one that waited for another to leave begins long after it was configured."""
        self._host.moved.clear()
        self._seen = self._node.changes
        self._followed = dict(self._node.routers)
        self._host.look()
        routers = [router.settings for router in self._node.routers.values()]
        slow = (TrackerKind.SCRIPT, TrackerKind.ROUTE)
        tracked = [to_message(one).trackers for one in routers if one.trackers]
        wanted = {tracker for some in tracked for tracker in some if tracker.type in slow}
        self._order(chores.Watch(tuple(sorted(wanted, key=_subject))))
        self._put_up_fence(self._pending)
        rules = accept_rules(routers)
        if rules != self._rules and self._order(chores.Rules(rules)):
            self._rules = rules

    # --- the fence ----------------------------------------------------------------------

    def _put_up_fence(self, message: Routers | None = None) -> bool:
        """Have it on every interface of the routers (of `message`, which are to run), and
        say whether that is still to come."""
        pins = self._options.pins
        if pins is None:
            return False
        names = {one.interface for one in (message or Routers(self._saved.routers)).routers}
        found = self._host.indexes(names)
        lacking = {name: index for name, index in found.items() if self._fenced.get(name) != index}
        if not lacking.items() <= self._asked.items():
            put_up = chores.PutUp(str(pins), tuple(sorted(lacking)))
            self._asked |= lacking if self._order(put_up) else {}
        return bool(lacking)

    def _hear_of_fence(self, fenced: chores.Fenced) -> None:
        """It is up; or it cannot be, and the routers run without, which is told."""
        self._unfenced = fenced.trouble
        self._fenced |= self._host.indexes(fenced.interfaces)
        pins = self._options.pins
        if not fenced.trouble and self._fence is None and pins is not None:
            try:
                self._fence = Fence(pins)
            except (LbctlError, OSError) as error:
                self._unfenced = str(error)
            else:
                self._host.put_up(self._fence)
        if self._unfenced:
            text = f"not fenced: {self._unfenced}"
            self.log(text)
            for router in (self._pending or Routers(self._saved.routers)).routers:
                self._publish(Event(router.name, Notice.UNFENCED, text, time.monotonic()))
        if self._pending is not None:
            with suppress(InvalidConfig):  # it was valid when it came
                self._configure(self._pending)

    def _save(self, saved: Saved) -> None:
        if saved == self._saved:
            return
        self._saved = saved
        self._keep()

    def _keep(self) -> None:
        if self._helper is not None:
            path = str(self._options.state / "vrrp.json")
            save = chores.Save(path, msgspec.json.encode(self._saved).decode())
            if not self._helper.send(save):
                self.log(f"{path}: cannot be saved now: the helper has no room for it")

    # --- the helper ---------------------------------------------------------------------

    def _start_helper(self) -> None:
        self._helper = Helper()
        self._selector.register(self._helper, selectors.EVENT_READ, self._hear_helper)

    def _order(self, chore: AnyChore) -> bool:
        """Have the helper do it. False: there is none, or it has no room now; `_tick` then
        starts it, if need be, and orders again."""
        if self._helper is not None and self._helper.send(chore):
            return True
        if self._helper_at is None:
            self._helper_at = time.monotonic() + HELPER_PAUSE
        return False

    def _hear_helper(self) -> None:
        helper = self._helper
        assert helper is not None
        for chore in helper.read(MESSAGES):
            match chore:
                case None:
                    self._selector.unregister(helper)
                    helper.close()
                    self._helper, self._rules, self._asked = None, "", {}
                    self._helper_at = time.monotonic() + HELPER_PAUSE
                case chores.Found(tracker, subject, holds, evidence):
                    fact = Fact(holds, "" if holds else evidence)
                    key = (TrackerKind(tracker), subject, 1)
                    self._host.carry(self._node.learn(key, fact, time.monotonic()))
                case chores.Failed(text):
                    self.log(text)
                case chores.Fenced():
                    self._hear_of_fence(chore)
                case chores.Log() | chores.Watch() | chores.Call() | chores.Rules() | chores.Save():
                    pass  # these go the other way
                case chores.PutUp() | chores.TakeDown():
                    pass
                case _:
                    assert_never(chore)

    def log(self, text: str) -> None:
        if self._helper is not None:
            self._helper.send(chores.Log(text))

    # --- what is told -------------------------------------------------------------------

    def _tell(self, name: str, what: Change | Tell | Dropped) -> None:
        now = time.monotonic()
        match what:
            case Change(role, reason):
                self.log(f"{name}: {role} ({reason})")
                self._publish(RoleChange(name, role, reason, now))
                self._notify(name, role, reason)
            case Tell(notice, text):
                if self._say_seldom(name, notice, text, now):
                    self._publish(Event(name, notice, text, now))
            case Dropped(count=count):
                self._say_seldom(name, count, f"packet dropped: {what}", now)
            case _:
                assert_never(what)

    def _say_seldom(self, name: str, kind: str, text: str, now: float) -> bool:
        """Was it said? A forger of packets fills neither the log nor the journal of events."""
        held_back = self._seldom.due((name, kind), now)
        if held_back is None:
            return False
        more = f" ({held_back} more like this before)" if held_back else ""
        self.log(f"{name}: {text}{more}")
        return True

    def _notify(self, name: str, role: Role, reason: str) -> None:
        router = self._node.routers.get(name)
        before = self._followed.get(name)
        if before is not None and before.done:  # its end is told when it is gone already
            router = before if role is Role.INITIALIZE else router
        if router is None or router.settings.notify is None:
            return
        notify = router.settings.notify
        argv = arguments(notify, name, role, router.priority, reason)
        self._calls.append(chores.Call(argv, notify.user, notify.timeout))
        self._call()

    def _call(self) -> None:
        """Hand the notify commands over, in their order."""
        while self._calls and self._order(self._calls[0]):
            self._calls.popleft()

    # --- clients ------------------------------------------------------------------------

    def _accept(self) -> None:
        client = self._server.accept()
        if client is None:
            return
        self._selector.register(client, selectors.EVENT_READ, partial(self._hear, client))
        for name, router in self._node.routers.items():
            change = RoleChange(name, router.role, router.reason, router.since)
            self._server.send(client, change)

    def _hear(self, client: socket.socket) -> None:
        for message in self._server.read(client, MESSAGES):
            if message is None or not self._answer(client, message):
                self._let_go(client)
                return

    def _answer(self, client: socket.socket, message: AnyMessage) -> bool:
        refused = ""
        try:
            for standing in self._obey(message):
                if not self._server.send(client, standing):
                    return False
        except LbctlError as error:
            refused = str(error)
        return self._server.send(client, Done(refused))

    def _obey(self, message: AnyMessage) -> list[Standing]:
        """Do what a client wants; what it is told. Raises LbctlError."""
        now = time.monotonic()
        match message:
            case Routers():
                self._configure(message)
            case Quorum(service, holds, needs):
                fact = Fact(holds, "" if holds else "too few servers are up")
                key = (TrackerKind.QUORUM, service, needs)
                self._host.carry(self._node.learn(key, fact, now))
            case HandOver(name, reason):
                if self._known(name).role is not Role.ACTIVE:
                    raise LbctlError(f"{name}: cannot hand over: it is not active here")
                self._host.carry(self._node.fail_over(name, _ordered("failover", reason), now))
            case StandBy(name, reason):
                self._known(name)
                self._stand_by(name, _ordered("standby", reason), now)
            case Resume(name):
                self._known(name)
                self._stand_by(name, None, now)
            case Synced(name, holds):
                self._known(name)
                self._node.sync(name, holds)
            case Ask():
                return [self._standing(name, now) for name in self._node.routers]
            case Assign() | Files() | ProbeNow() | Verdict() | Reading() | Pulse() | RoleChange():
                raise LbctlError("not a message for the VRRP process")
            case Standing() | Event() | Done():
                raise LbctlError("not a message for the VRRP process")
            case _:
                assert_never(message)
        return []

    def _stand_by(self, name: str, reason: str | None, now: float) -> None:
        if reason is None:
            self._host.carry(self._node.resume(name, now))
        else:
            self._host.carry(self._node.stand_by(name, reason, now))
        self._save(Saved(self._saved.routers, dict(self._node.standing_by)))

    def _known(self, name: str) -> VirtualRouter:
        try:
            return self._node.routers[name]
        except KeyError:
            known = ", ".join(self._node.routers) or "none"
            raise LbctlError(f"{name}: no such virtual router (there are: {known})") from None

    def _standing(self, name: str, now: float) -> Standing:
        router = self._node.routers[name]
        counts = {str(count): number for count, number in sorted(router.counts.items())}
        counts |= {str(count): number for count, number in self._host.passed_by(name).items()}
        return Standing(
            name,
            router.role,
            router.priority,
            str(router.peer.address) if router.peer else "",
            (
                *explain(self._node, name, now),
                *self._hindrances(),
                *self._host.unsent(name),
            ),
            counts,
            to_message(router.settings),
            router.leaving is not None,
        )

    def _hindrances(self) -> list[str]:
        """What no router here is to blame for."""
        found = [*self._lacks]
        if self._unfenced:
            found.append(f"not fenced: {self._unfenced}")
        if self._helper is not None and self._helper.lost:
            text = f"the helper is too slow: {self._helper.lost} log lines or orders had no room"
            found.append(text)
        return found

    def _publish(self, message: AnyMessage) -> None:
        for client in list(self._server.clients.values()):
            if not self._server.send(client, message):
                self._let_go(client)

    def _let_go(self, client: socket.socket) -> None:
        if client.fileno() in self._server.clients:
            self._selector.unregister(client)
            self._server.forget(client)


def _ordered(what: str, reason: str) -> str:
    return f"{what} ordered" + (f": {plain(reason)}" if reason else "")


def _subject(tracker: TrackerSettings) -> tuple[str, str]:
    return tracker.type, tracker.subject


def validated(message: Routers, fenced: bool = False) -> dict[str, Router]:
    """The routers by name. Raises InvalidConfig with everything that is wrong."""
    faults: list[str] = []
    routers: dict[str, Router] = {}
    for settings in message.routers:
        try:
            routers[settings.name] = from_message(settings)
        except InvalidConfig as invalid:
            faults += invalid.faults
    faults += [f"{name}: {text}" for name, text in clashes(routers.values())]
    if fenced:
        faults += unfenceable(routers)
    if faults:
        raise InvalidConfig(faults)
    return routers


def unfenceable(routers: Mapping[str, Router]) -> list[str]:
    """What the fence has no room or no clock for."""
    crowded = crowded_out({name: claim(router) for name, router in routers.items()})
    found = [f"{name}: {text} (use fewer)" for name, text in crowded.items()]
    tick = jiffy()
    for name, router in routers.items():
        if fault := too_short(LEASE * router.interval, tick):
            found.append(f"{name}: {fault}")
    return found


def read_settings(path: Path) -> Routers:
    """A JSON file with a `Routers` message. Raises LbctlError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Routers)
    except OSError as error:
        raise LbctlError(f"{path}: cannot be read: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise LbctlError(f"{path}: {error}") from None


def main(argv: list[str] | None = None) -> int:
    options = _options(argv)
    refused = realtime.be_on_time(options.priority)
    try:
        process = Process(options, refused)
    except LbctlError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    except PermissionError as error:
        print(f"lbctl vrrp: {error} (run it as root: sudo lbctl vrrp)", file=sys.stderr)
        return int(NotPermitted.exit_code)
    signals = _signals()
    process.on_readable(signals, partial(_obey_signals, signals, process))
    try:
        process.run()
    except LbctlError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    finally:
        process.close()
    return 0


def _options(argv: list[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="lbctl vrrp", description="Run the virtual routers.")
    parser.add_argument("--settings", type=Path, help="a JSON file; else as last told")
    parser.add_argument("--control", type=Path, default=PATH, help="the socket for clients")
    parser.add_argument("--state", type=Path, default=STATE, help="what outlives a reboot")
    parser.add_argument("--runtime", type=Path, default=RUNTIME, help="what does not")
    parser.add_argument("--pins", type=Path, default=PINS, help="the daemon's; for the fence")
    parser.add_argument("--unfenced", action="store_const", const=None, dest="pins")
    parser.add_argument(
        "--priority", type=_priority, default=PRIORITY, help="of SCHED_FIFO: 1 to 99"
    )
    return Options(**vars(parser.parse_args(argv)))


def _priority(text: str) -> int:
    """sched(7): SCHED_FIFO's range."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 99:
        raise argparse.ArgumentTypeError(f"{text!r} is not from 1 to 99")
    return int(text)


def _signals() -> socket.socket:
    """A socket that has the number of each signal as a byte."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    signal.set_wakeup_fd(theirs.detach(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return ours


def _obey_signals(signals: socket.socket, process: Process) -> None:
    for number in signals.recv(64):
        if number == signal.SIGHUP:
            process.reload()
        else:
            process.stop()


if __name__ == "__main__":
    sys.exit(main())
