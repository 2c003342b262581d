"""The lab of machines, by command line; `make vagrant-up` and its like call it.

python -m vagrant up | test | down | payload
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from types import FrameType
from typing import NoReturn

from lbctl.errors import LbctlError
from lbctl.lab.topology import Role
from lbctl.lab.waiting import eventually
from vagrant import host, settings
from vagrant.lab import VagrantLab, here, what_is_there
from vagrant.report import markdown
from vagrant.settings import CACHE, HERE
from vagrant.steps import Result, Say, Step, run
from vagrant.story import Story

REPORT = HERE / "out/report.md"
UP = CACHE / "up.txt"  # how long the first `up` took: for the report
BOX, PAYLOAD, MACHINES, SNAPSHOTS, ANSWER = 60, 300, 200, 60, 60  # seconds with KVM
FAILURES = (LbctlError, OSError, ValueError, subprocess.SubprocessError)


def raising(lab: VagrantLab) -> list[Step]:
    """The steps of `up`."""
    patience = lab.settings.patience

    def host_has(say: Say) -> None:
        roles = [one.role for one in lab.topology.hosts]
        host.check(lab.settings, roles, running=lab.cell.init is not None)
        settings.record(lab.settings)

    def libvirt(say: Say) -> None:
        # What is left of an `up` that was broken off may be half of something: a box that was
        # half copied looks like one.
        if not lab.made.exists() and lab.cell.remove():
            say("what an earlier vagrant-up did not finish is gone")
        lab.cell.start()
        say(f"libvirt in namespaces of its own (process {lab.cell.init}), {lab.settings.driver}")

    def payload(say: Say) -> None:
        if lab.made.exists():
            lab.describe()
            say("the machines have it")
        else:
            lab.payload()
            say("the wheel, packet programs, certificates, configuration")

    def machines(say: Say) -> None:
        try:
            lab.vagrant("up", "--parallel", seconds=MACHINES * patience - 20)
        except LbctlError as error:
            raise LbctlError(f"{error}\n{lab.consoles()}") from None
        lab.made.touch()
        say(", ".join(f"{name} {state}" for name, state in sorted(lab.states().items())))

    def restoring(say: Say) -> None:
        lab.restoring()
        for server in (one.name for one in lab.topology.having(Role.SERVER)):
            lab.save(server, SNAPSHOTS * patience)
            for gateway in lab.topology.having(Role.GATEWAY):
                lab.refuses(lab.machines[gateway.name], server)
            say(f"{server}: snapshot; its gateways' hook may restore it, and nothing else")

    def answering(say: Say) -> None:
        for machine in lab.machines.values():
            machine.forget()
            eventually(machine.answers, ANSWER * patience)
        say("all machines answer by ssh")

    servers = lab.settings.servers
    return [
        Step("What the host must have", 30, host_has, needed=True),
        Step("A libvirt of our own", 100, libvirt, needed=True),
        Step("What the machines get", PAYLOAD, payload, needed=True),
        Step("The machines", MACHINES * patience, machines, needed=True),
        Step("All answer", ANSWER * patience * 2, answering, needed=True),
        Step("Snapshots for the hook", SNAPSHOTS * patience * servers, restoring, needed=True),
    ]


def up(lab: VagrantLab) -> int:
    """Everything that is not there yet, or anew what was broken off; can be run again."""
    started = time.monotonic()
    results = run(raising(lab), show, FAILURES)
    if status := ended(results):
        show("some of it is there now: make vagrant-down removes it")
        return status
    if not UP.exists():
        UP.write_text(f"{time.monotonic() - started:.0f}")
    return 0


def test(lab: VagrantLab) -> int:
    """The story, and its report: of what was seen so far, where it is broken off."""
    REPORT.unlink(missing_ok=True)
    story = Story(lab)
    results: list[Result] = []
    try:
        run(story.steps(), show, FAILURES, results)
    finally:
        REPORT.parent.mkdir(parents=True, exist_ok=True)
        REPORT.write_text(markdown(results, story.figures, about(lab)))
        show(f"report: {os.path.relpath(REPORT)}")
    return ended(results)


def about(lab: VagrantLab) -> dict[str, str]:
    """Of the run."""
    return {
        "when": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "host": f"{os.cpu_count()} processors, Linux {os.uname().release}",
        "machines": ", ".join(host.name for host in lab.topology.hosts),
        "machines are": "run by KVM" if lab.settings.driver == "kvm" else "emulated (QEMU's TCG)",
        "VRRP adverts every": lab.settings.interval,
        "every time limit": f"x {lab.settings.patience}",
        "`vagrant-up` took": f"{UP.read_text()} s" if UP.exists() else "not known",
    }


def down(lab: VagrantLab) -> int:
    """Nothing is asked of the machines: they end with the cell."""
    there = lab.cell.remove()
    for file in (UP, settings.RECORD):
        file.unlink(missing_ok=True)
    show("the lab of machines is gone" if there else "there was no lab of machines")
    return 0


def payload(lab: VagrantLab) -> int:
    """For `vagrant up` without us."""
    lab.payload()
    return 0


def ended(results: list[Result]) -> int:
    failed = [one.title for one in results if not one.passed and not one.skipped]
    for title in failed:
        show(f"FAILED: {title}")
    return 1 if failed else 0


def show(text: str) -> None:
    with suppress(OSError):  # who looked on may be gone, and things are still put back
        print(text, flush=True)


def stop(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


COMMANDS: dict[str, Callable[[VagrantLab], int]] = {
    "up": up,
    "test": test,
    "down": down,
    "payload": payload,
}


def main(argv: list[str]) -> int:
    if len(argv) != 1 or argv[0] not in COMMANDS:
        print(__doc__, file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        return COMMANDS[argv[0]](what_is_there() if argv[0] == "down" else here())
    except (LbctlError, OSError) as error:
        print(f"vagrant: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vagrant: interrupted (make vagrant-down removes what is there)", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
