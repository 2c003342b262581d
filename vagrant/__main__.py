"""The lab of machines, by command line; `make vagrant-up` and its like call it.

python -m vagrant up | test | down | payload
"""

import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from lbctl.errors import LbctlError
from lbctl.lab.topology import Role
from lbctl.lab.waiting import eventually
from vagrant import host
from vagrant.lab import VagrantLab, here
from vagrant.report import markdown
from vagrant.settings import CACHE, HERE
from vagrant.steps import Result, Say, Step, run
from vagrant.story import Story

REPORT = HERE / "out/report.md"
UP = CACHE / "up.txt"  # how long `up` took: for the report
BOX, PAYLOAD, MACHINES, SNAPSHOTS, ANSWER = 60, 300, 200, 60, 60  # seconds with KVM
FAILURES = (LbctlError, OSError, ValueError)


def up(lab: VagrantLab) -> int:
    """Everything that is not there yet; can be run again."""
    patience = lab.settings.patience

    def libvirt(say: Say) -> None:
        lab.cell.start()
        say(f"libvirt in namespaces of its own (process {lab.cell.init}), {lab.settings.driver}")

    def payload(say: Say) -> None:
        lab.payload()
        say("the wheel, packet programs, certificates, configuration")

    def machines(say: Say) -> None:
        try:
            lab.vagrant("up", "--parallel", seconds=MACHINES * patience - 5)
        except LbctlError as error:
            raise LbctlError(f"{error}\n{lab.consoles()}") from None
        say(", ".join(f"{name} {state}" for name, state in sorted(lab.states().items())))

    def restoring(say: Say) -> None:
        lab.restoring()
        for one in lab.topology.having(Role.SERVER):
            lab.save(one.name, SNAPSHOTS * patience)
            say(f"{one.name}: snapshot; its gateways' hook may restore it")

    def answering(say: Say) -> None:
        for machine in lab.machines.values():
            machine.forget()
            eventually(machine.answers, ANSWER * patience)
        say("all machines answer by ssh")

    servers = lab.settings.servers
    steps = [
        Step("What the host must have", 20, lambda say: host.check(lab.settings), needed=True),
        Step("A libvirt of our own", 100, libvirt, needed=True),
        Step("What the machines get", PAYLOAD, payload, needed=True),
        Step("The machines", MACHINES * patience, machines, needed=True),
        Step("All answer", ANSWER * patience * 2, answering, needed=True),
        Step("Snapshots for the hook", SNAPSHOTS * patience * servers, restoring, needed=True),
    ]
    started = time.monotonic()
    results = run(steps, show, FAILURES)
    if status := ended(results):
        show("some of it is there now: make vagrant-down removes it")
        return status
    UP.write_text(f"{time.monotonic() - started:.0f}")
    return 0


def test(lab: VagrantLab) -> int:
    """The story, and its report."""
    story = Story(lab)
    results = run(story.steps(), show, FAILURES)
    about = {
        "machines": ", ".join(host.name for host in lab.topology.hosts),
        "emulation": "KVM" if lab.settings.driver == "kvm" else "none of it in hardware (TCG)",
        "VRRP adverts every": lab.settings.interval,
        "`vagrant-up` took": f"{UP.read_text()} s" if UP.exists() else "not known",
    }
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(markdown(results, story.figures, about))
    show(f"report: {REPORT.relative_to(HERE.parent)}")
    return ended(results)


def down(lab: VagrantLab) -> int:
    """Nothing is asked of the machines: they end with the cell."""
    there = lab.cell.remove()
    UP.unlink(missing_ok=True)
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
    signal.signal(signal.SIGTERM, stop)
    try:
        return COMMANDS[argv[0]](here())
    except LbctlError as error:
        print(f"vagrant: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vagrant: interrupted (make vagrant-down removes what is there)", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
