"""What the demo's steps stand on: a lab, a screen, and the claims that were checked."""

import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from lbctl.lab.file import SERVICE
from lbctl.lab.kernel import LabError
from lbctl.lab.lab import Lab, Process
from lbctl.lab.pins import Pinned, pinned
from lbctl.lab.topology import HTTP
from lbctl.lab.waiting import eventually


@dataclass(frozen=True, slots=True)
class Claim:
    """What lbctl promises, whether it held, and what was seen."""

    says: str
    holds: bool
    seen: str


@dataclass
class Stage:
    """One run of the demo."""

    lab: Lab
    screen: Console
    claims: list[Claim] = field(default_factory=list)
    daemon: Process | None = None

    @property
    def url(self) -> str:
        return f"http://{self.lab.topology.vip}:{HTTP}/"

    # --- the screen

    def say(self, text: str) -> None:
        self.screen.print(f"   {escape(text)}", highlight=False)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        drawn = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            drawn.add_row(*row)
        self.screen.print(Padding(drawn, (0, 0, 0, 3)))

    def claim(self, says: str, holds: bool, seen: str) -> None:
        """Check a claim, in the open."""
        self.claims.append(Claim(says, holds, seen))
        mark = "[green]✓[/]" if holds else "[red]✗[/]"
        self.screen.print(f"   {mark} {escape(says)}: {escape(seen)}", highlight=False)

    @property
    def failed(self) -> list[Claim]:
        return [claim for claim in self.claims if not claim.holds]

    # --- the gateway

    def lbctl(self, *words: str, timeout: float = 60.0) -> None:
        """Run a verb as a user would, in the open. Raises LabError unless it returns 0."""
        self.screen.print(f"   [dim]lb1 #[/] lbctl {escape(' '.join(words))}", highlight=False)
        done = self.lab.gateway.lbctl(*words, timeout=timeout)
        # What it says while it waits comes on the other stream.
        for line in (*done.stdout.splitlines(), *done.stderr.splitlines()):
            self.screen.print(f"         [dim]{escape(line)}[/]", no_wrap=True, overflow="ellipsis")

    def start_daemon(self) -> None:
        """Start lbctl on the gateway; returns when it answers. Raises LabError."""
        daemon = self.daemon = self.lab.gateway.daemon()

        def answers() -> bool:
            if not daemon.alive:
                raise LabError(f"the daemon ended: {daemon.output().strip()[-1000:]}")
            return self.lab.gateway.lbctl("get", "status", check=False).returncode == 0

        eventually(answers, timeout=30)

    def kill_daemon(self) -> None:
        assert self.daemon is not None
        self.daemon.kill(signal.SIGKILL)
        self.daemon.wait()

    def states(self) -> dict[str, str]:
        """Each server of the service with its state in one word."""
        servers = json.loads(self.lab.gateway.lbctl("get", "servers", "-j").stdout)
        return {one["name"].removeprefix(f"{SERVICE}/"): one["state"] for one in servers}

    def writes(self) -> dict[str, int]:
        """What the running daemon changed in the kernel, by kind."""
        status = json.loads(self.lab.gateway.lbctl("get", "status", "-j").stdout)
        return {kind: count for kind, count in status["writes"].items() if count}

    def await_state(self, server: str, state: str, timeout: float = 20.0) -> None:
        def reached() -> bool:
            seen = self.states()[server]
            assert seen == state, f"{SERVICE}/{server} is {seen}, not {state}"
            return True

        eventually(reached, timeout)

    def objects(self) -> dict[str, Pinned]:
        """Programs and maps in the kernel that lbctl pinned."""
        return pinned(self.lab.gateway.pins)
