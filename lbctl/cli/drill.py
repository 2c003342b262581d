"""`lbctl ha failover --drill`: a real hand-over, watched from a client.

A gateway cannot see what clients see: what it sends to its own addresses never leaves it.
So the probe runs on a machine that the operator names by the words that reach it.
"""

import select
import shlex
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import msgspec

from lbctl.cli.client import Client as Daemon
from lbctl.errors import LbctlError, NotFound, Refused
from lbctl.ha.drill import Beat, Drill, Passage, Tally, obstacle
from lbctl.messages import Ask, HandOver, Resume, Role, Standing
from lbctl.model import Listen, Proto, parse_frontend
from lbctl.vrrp.control import Client

BASELINE = 1.0  # seconds of probes before anything is handed over
SETTLE = 6.0  # seconds after it, at most: several of TCP's keep-alives
LOOK = 0.02  # between two looks at the role
OPENING = 30.0  # seconds for the probe to begin
TARGETS = 16  # listens that are probed in turn


@dataclass(frozen=True)
class Plan:
    """via: words that run a command on the client. every: seconds between probes. held:
    connections. back: whether the addresses come home. timeout: seconds for each hand-over."""

    router: str
    via: str
    reason: str = ""
    every: float = 0.01
    held: int = 50
    back: bool = False
    timeout: float = 30.0
    force: bool = False


class Probe:
    """The probe on the client, while in the context."""

    def __init__(self, plan: Plan, targets: Sequence[str]) -> None:
        limit = OPENING + BASELINE + 2 * (plan.timeout + SETTLE)
        settings = [",".join(targets), f"{plan.every:g}", str(plan.held), f"{limit:g}"]
        self._argv = [*shlex.split(plan.via), "python3", "-", *settings]
        self._rest = b""
        self.beat = Beat()

    def __enter__(self) -> "Probe":
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(self._argv, stdin=pipe, stdout=pipe, stderr=pipe)
        except OSError as error:
            raise LbctlError(f"--via: {self._argv[0]}: cannot be run: {error.strerror}") from None
        assert self._process.stdin is not None
        try:
            with self._process.stdin as way:
                way.write(resources.files("lbctl.ha").joinpath("probe.py").read_bytes())
        except BrokenPipeError:
            self._ended()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def listen(self, seconds: float, take: Callable[[Beat, float], None]) -> None:
        """Beats that come within `seconds`. Raises LbctlError where the probe ended."""
        assert self._process.stdout is not None
        end = time.monotonic() + seconds
        while select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
            data = self._process.stdout.read1(1 << 20)  # type: ignore[attr-defined]
            if not data:
                self._ended()
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                try:
                    self.beat = msgspec.json.decode(line, type=Beat)
                except msgspec.MsgspecError:
                    raise LbctlError(f"--via: the probe said {line[:80]!r}") from None
                take(self.beat, time.monotonic())

    def _ended(self) -> None:
        _, said = self._process.communicate()
        last = said.decode(errors="replace").strip().rpartition("\n")[2] or "it said nothing"
        raise LbctlError(f"--via {shlex.join(self._argv[:-6])}: the probe ended: {last}")


def run(daemon: Daemon, control: Path, plan: Plan) -> Drill:
    """Hand over, measure, remember. Raises LbctlError, and Refused where it would be no drill."""
    with Client(control) as client:
        standing = check(daemon, client, plan)
        targets = targets_of(daemon, client, standing)
        with Probe(plan, targets) as probe:
            _baseline(probe)
            try:
                drill = _measure(client, probe, plan, standing.peer, tuple(targets))
            except (LbctlError, KeyboardInterrupt) as error:
                why = str(error) or "interrupted"
                back = f"`lbctl ha resume {plan.router}` takes the addresses back"
                raise LbctlError(f"{plan.router}: the drill was not ended: {why}", back) from None
    body = msgspec.to_builtins(drill)
    return msgspec.convert(daemon.post("drills", body=body), Drill)


def check(daemon: Daemon, client: Client, plan: Plan) -> Standing:
    """The router as it stands. Raises Refused where a hand-over would be no drill."""
    standing = standing_of(client, plan.router)
    if standing is None:
        hint = "`lbctl ha status` shows those here"
        raise NotFound(f"{plan.router}: no such virtual router", hint)
    text = obstacle(standing.role, standing.peer, daemon.get("replication"))
    if text and (standing.role is not Role.ACTIVE or not plan.force):
        elsewhere = "run the drill on the gateway that is"
        raise Refused(
            f"{plan.router}: {text}",
            "--force" if standing.role is Role.ACTIVE else elsewhere,
        )
    if plan.back and standing.settings.preempt == "never":
        raise Refused(f"{plan.router}: preempt is never: it would not come back", "without --back")
    return standing


def targets_of(daemon: Daemon, client: Client, standing: Standing) -> list[str]:
    """The TCP listens on the addresses that are handed over: the sync group goes as one."""
    group = standing.settings.group
    addresses = set(standing.settings.addresses)
    for one in client.ask(Ask()):
        if isinstance(one, Standing) and group and one.settings.group == group:
            addresses |= set(one.settings.addresses)
    found = []
    for service in daemon.get("services"):
        for text in service["listens"]:
            listen = parse_frontend(text)
            if not isinstance(listen, Listen) or listen.proto is not Proto.TCP:
                continue
            if str(listen.address) in addresses and service["scheduled"]:
                found.append(text.rpartition("/")[0])
    if not found:
        hint = "a drill connects to services on the virtual addresses"
        raise LbctlError(f"{standing.router}: no TCP listen on its addresses is served", hint)
    return found[:TARGETS]


def standing_of(client: Client, router: str) -> Standing | None:
    said = client.ask(Ask())
    return next((s for s in said if isinstance(s, Standing) and s.router == router), None)


def _baseline(probe: Probe) -> None:
    """Raises LbctlError where the client does not reach the services even now."""
    end = time.monotonic() + OPENING
    while probe.beat == Beat():
        if time.monotonic() > end:
            raise LbctlError(f"--via: the probe said nothing for {OPENING:g} s")
        probe.listen(LOOK, lambda *_: None)
    tally = Tally(time.monotonic(), probe.beat.held)
    probe.listen(BASELINE, tally.take)
    ended = {word for _, word in probe.beat.held if word}
    lost = {why for _, why in tally.probes if why}
    if ended or lost or not tally.probes:
        why = ", ".join(sorted(ended | lost)) or "no probe was made"
        raise LbctlError(
            f"--via: the client does not reach the services before anything is handed over: {why}",
            "the drill was not begun",
        )


def _measure(
    client: Client, probe: Probe, plan: Plan, peer: str, targets: tuple[str, ...]
) -> Drill:
    tally = Tally(time.monotonic(), probe.beat.held)
    client.ask(HandOver(plan.router, plan.reason or "a drill"))
    left = _wait(client, probe, plan, tally, lambda one: not one.leaving)
    there = _passage(probe, tally)
    failed, back = "", None
    if left is None or left.role is Role.ACTIVE:
        failed = "no successor was heard: this gateway goes on"
    elif plan.back:
        tally = Tally(time.monotonic(), probe.beat.held)
        client.ask(Resume(plan.router))
        came = _wait(client, probe, plan, tally, lambda one: one.role is Role.ACTIVE)
        back = _passage(probe, tally)
        if came is None or came.role is not Role.ACTIVE:
            why = came.why[-1] if came is not None and came.why else "it is gone"
            failed = f"did not come back within {plan.timeout:g} s: {why}"
    peer = left.peer if left is not None else peer
    return Drill(plan.router, peer, plan.via, targets, there, back, failed)


def _wait(
    client: Client, probe: Probe, plan: Plan, tally: Tally, over: Callable[[Standing], bool]
) -> Standing | None:
    """Until it is over, or the time is."""
    while (found := standing_of(client, plan.router)) is not None:
        if over(found) or time.monotonic() > tally.since + plan.timeout:
            break
        probe.listen(LOOK, tally.take)
    tally.done = time.monotonic()
    return found


def _passage(probe: Probe, tally: Tally) -> Passage:
    """What became of it, once that can be known."""
    end = time.monotonic() + SETTLE
    while not tally.settled and time.monotonic() < end:
        probe.listen(LOOK, tally.take)
    if not tally.told:
        raise LbctlError("--via: the probe fell silent with the hand-over: does it come this way?")
    return tally.passage()
