"""`make demo`: lbctl at work in a lab, step by step. Every claim is checked.

Each step is a function; `STEPS` is the show.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence

from rich.console import Console

from lbctl.errors import LbctlError
from lbctl.lab.file import SERVICE, empty_file, gateway_file
from lbctl.lab.lab import Lab
from lbctl.lab.load import Answer, Pace, failures, pressing, send, sending
from lbctl.lab.stage import Stage
from lbctl.lab.topology import standard
from lbctl.lab.traces import Traces
from lbctl.lab.waiting import NeverHappened, eventually

REQUESTS = 300
TOLERANCE = 0.02  # of all requests
PRESSURE = 10.5  # seconds of wrk around the daemon's death, at least
STEADY = Pace(connections=8, per_connection=10, rate=200)

Step = Callable[[Stage], None]

# --- the steps --------------------------------------------------------------------------


def build_a_lab(stage: Stage) -> None:
    """A network of our own: a client, a gateway, three nginx"""
    rows = [
        [host.name, str(host.spec.role), " ".join(nic.addresses[0] for nic in host.spec.nics)]
        for host in stage.lab
    ]
    stage.table(["host", "role", "addresses"], rows)


def apply_a_file(stage: Stage) -> None:
    """One file makes the gateway a load balancer"""
    stage.lab.gateway.config(empty_file(stage.lab.topology))
    stage.start_daemon()
    text = gateway_file(stage.lab.topology)
    for line in text.splitlines():
        stage.say(f"│ {line}")
    stage.lbctl("apply", str(stage.lab.gateway.config(text)))
    for server in stage.lab.servers:
        stage.await_state(server.name, "serving")
    answers = send(stage.lab.client, stage.url, Pace(total=1))
    stage.claim("the virtual IP answers", not failures(answers), f"{stage.url} → {_who(answers)}")


def balance(stage: Stage) -> None:
    """300 connections to the virtual IP"""
    answers = send(stage.lab.client, stage.url, Pace(total=REQUESTS, connections=5))
    shares = Counter(answer.server for answer in answers if not answer.error)
    stage.table(
        ["server", "requests", "share"],
        [[name, str(count), f"{count / REQUESTS:.1%}"] for name, count in sorted(shares.items())],
    )
    fair = REQUESTS / len(stage.lab.servers)
    off = max(abs(shares[server.name] - fair) for server in stage.lab.servers) / REQUESTS
    stage.claim("every request is answered", not failures(answers), _failed(answers))
    stage.claim("each gets a third, within 2 %", off <= TOLERANCE, f"at most {off:.1%} off")


def lose_a_server(stage: Stage) -> None:
    """A server dies under load"""
    victim = stage.lab.servers[-1]
    with sending(stage.lab.client, stage.url, STEADY) as load:
        eventually(lambda: load.answers()[REQUESTS:], timeout=20)
        killed = time.monotonic()
        victim.web.kill()
        stage.await_state(victim.name, "down")
        noticed = time.monotonic()
        count = len(load.answers())
        eventually(lambda: load.answers()[count + REQUESTS :], timeout=20)
        answers = load.stop()
    before = [answer for answer in answers if killed <= answer.at < noticed]
    after = [answer for answer in answers if answer.at >= noticed]
    stage.lbctl("get", "servers")
    stage.say(
        f"{victim.name}: nginx got SIGKILL; out of the schedule {noticed - killed:.1f} s later"
    )
    stage.say(f"until then {_failed(before)}")
    servers = {answer.server for answer in after if not answer.error}
    stage.claim("after its detection it costs nothing", not failures(after), _failed(after))
    stage.claim("the others serve on", victim.name not in servers, ", ".join(sorted(servers)))


def return_a_server(stage: Stage) -> None:
    """It comes back"""
    victim = stage.lab.servers[-1]
    started = time.monotonic()
    victim.web.start()
    stage.await_state(victim.name, "serving")
    took = time.monotonic() - started
    answers = send(stage.lab.client, stage.url, Pace(total=60))
    count = Counter(answer.server for answer in answers)[victim.name]
    stage.claim(f"{victim.name} serves again", count > 0, f"after {took:.1f} s, {count} of 60")
    stage.claim("nobody noticed", not failures(answers), _failed(answers))


def drain_a_server(stage: Stage) -> None:
    """A server is drained under load"""
    server = stage.lab.servers[0]
    name = f"{SERVICE}/{server.name}"
    with sending(stage.lab.client, stage.url, STEADY) as load:
        eventually(lambda: load.answers()[REQUESTS:], timeout=20)
        stage.lbctl("drain", name, "--wait", timeout=120)  # raises unless it returns 0
        empty = time.monotonic()
        count = len(load.answers())
        eventually(lambda: load.answers()[count + REQUESTS :], timeout=20)
        answers = load.stop()
    late = [a for a in answers if a.at >= empty and a.server == server.name]
    stage.claim("drain --wait returned when it was empty", not late, f"{len(late)} requests since")
    stage.claim("no request failed", not failures(answers), _failed(answers))
    stage.lbctl("ready", name)
    stage.await_state(server.name, "serving")


def kill_the_daemon(stage: Stage) -> None:
    """lbctl itself is killed under load, and started again"""
    before = stage.objects()
    with pressing(stage.lab.client, stage.url) as wrk:
        eventually(lambda: wrk.seconds > PRESSURE / 4, timeout=PRESSURE)
        stage.kill_daemon()
        killed = wrk.seconds
        eventually(lambda: wrk.seconds > killed + PRESSURE / 4, timeout=PRESSURE)
        stage.start_daemon()
        for server in stage.lab.servers:
            stage.await_state(server.name, "serving")
        back = wrk.seconds
        eventually(lambda: wrk.seconds > max(PRESSURE, back + 1), timeout=PRESSURE)
        lasted, report = wrk.seconds, wrk.stop()
    stage.say(f"SIGKILL {killed:.1f} s into the load; the next daemon is at work at {back:.1f} s")
    stage.claim(
        f"no request failed in {lasted:.1f} s of wrk",
        report.failed == 0 and report.requests > 0,
        f"{report.failed} of {report.requests} failed",
    )
    writes = ", ".join(f"{count} {kind}" for kind, count in stage.writes().items())
    stage.claim("the new daemon wrote nothing to the kernel", not writes, writes or "0 writes")
    after = stage.objects()
    kinds = Counter(one.kind for one in after.values())
    seen = ", ".join(f"{count} {kind}s" for kind, count in sorted(kinds.items())) or "none pinned"
    same = before == after and kinds["prog"] > 0 and kinds["map"] > 0
    stage.claim("programs and maps in the kernel are the same", same, seen)


STEPS: Sequence[Step] = (
    build_a_lab,
    apply_a_file,
    balance,
    lose_a_server,
    return_a_server,
    drain_a_server,
    kill_the_daemon,
)


# --- the show ---------------------------------------------------------------------------


def main(name: str, keep: bool, steps: Sequence[Step] = STEPS) -> int:
    """Run the demo in a lab of that name; the exit code is 0 if every claim held."""
    stage = Stage(Lab(standard(), name), Console(highlight=False))
    started = time.monotonic()
    stage.lab.up()
    traces = Traces.of(stage.lab)
    try:
        _run(stage, steps)
        traces = Traces.of(stage.lab)
    finally:
        if not keep:
            stage.lab.down()
    if keep:
        stage.say(f"the lab is still up: lbctl lab --name {name} status, and down to end it")
    else:
        _nothing_is_left(stage, traces)
    for claim in stage.failed:
        stage.screen.print(f"[red]failed:[/] {claim.says}: {claim.seen}")
    held = len(stage.claims) - len(stage.failed)
    stage.screen.print(
        f"\n{held} of {len(stage.claims)} claims held, in {time.monotonic() - started:.0f} s"
    )
    return 1 if stage.failed else 0


def _run(stage: Stage, steps: Sequence[Step]) -> None:
    for number, step in enumerate(steps, 1):
        stage.screen.print(f"\n[bold]{number}. {step.__doc__}[/]")
        try:
            step(stage)
        except (LbctlError, NeverHappened) as error:
            stage.claim("this step ends well", False, str(error))
            return  # the next ones stand on it


def _nothing_is_left(stage: Stage, traces: Traces) -> None:
    stage.screen.print("\n[bold]The end[/]")
    try:
        # The kernel frees what nobody holds any more when it gets to it.
        eventually(lambda: not traces.left(), timeout=10)
    except NeverHappened:
        left = ", ".join(traces.left())
    else:
        left = ""
    none = f"no namespace, file, mount, process, nor any of {len(traces.objects)} BPF objects"
    stage.claim("nothing is left behind", not left, left or none)


def _failed(answers: Sequence[Answer]) -> str:
    bad = failures(answers)
    causes = ", ".join(f"{count} {what}" for what, count in Counter(a.error for a in bad).items())
    return f"{len(bad)} of {len(answers)} requests failed" + (f" ({causes})" if bad else "")


def _who(answers: Sequence[Answer]) -> str:
    return ", ".join(answer.server or answer.error for answer in answers)
