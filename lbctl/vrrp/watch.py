"""The helper of the VRRP process: `python -m lbctl.vrrp.watch FD`.

An ordinary process, so that scripts, routes, notify commands and log lines never stand
between the clock and an advert. It ends when its socket does.
"""

import asyncio
import os
import pwd
import shlex
import signal
import socket
import sys
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any, assert_never

from lbctl.messages import TrackerSettings
from lbctl.model import TrackerKind
from lbctl.vrrp.chores import (
    LIMIT,
    AnyChore,
    Call,
    Failed,
    Fenced,
    Found,
    Log,
    PutUp,
    Rules,
    Save,
    TakeDown,
    Watch,
    decode,
    encode,
)
from lbctl.vrrp.netlink import Netlink

FENCE_SECONDS = 300.0  # compiling, on a slow machine
OUTPUT = 200  # characters of a script's output that become evidence


class Verdict:
    """rise and fall: so many results in a row change it; the first one decides at once."""

    def __init__(self, rise: int, fall: int) -> None:
        self._needed = {True: rise, False: fall}
        self._streak = 0
        self.holds: bool | None = None

    def take(self, passed: bool) -> bool:
        """Whether the verdict changed."""
        if passed == self.holds:
            self._streak = 0
            return False
        self._streak += 1
        if self.holds is not None and self._streak < self._needed[passed]:
            return False
        self._streak, self.holds = 0, passed
        return True


class Watcher:
    """link: the socket to the VRRP process."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._calls: asyncio.Queue[Call] = asyncio.Queue()
        self._watched: dict[TrackerSettings, asyncio.Task[None]] = {}
        self._fencing: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Until the other side is gone, and what it ordered is done."""
        loop = asyncio.get_running_loop()
        calls = asyncio.create_task(self._call_in_order())
        try:
            while data := await loop.sock_recv(self._link, LIMIT):
                await self._do(decode(data))
            self._watch(())
            done = asyncio.create_task(self._calls.join())
            await asyncio.wait((calls, done), return_when=asyncio.FIRST_COMPLETED)
        finally:
            calls.cancel()
            self._watch(())

    async def _do(self, chore: AnyChore) -> None:
        match chore:
            case Log():
                print(chore.text, file=sys.stderr, flush=True)
            case Watch():
                self._watch(chore.trackers)
            case Call():
                self._calls.put_nowait(chore)
            case Rules():
                await self._apply(chore.text)
            case Save():
                await self._save(Path(chore.path), chore.text)
            case PutUp():
                self._fencing = asyncio.create_task(self._put_up(chore))
            case TakeDown(interfaces):
                await _run(_fence("--off", *interfaces), "", FENCE_SECONDS)
            case Found() | Failed() | Fenced():
                pass  # these go the other way
            case _:
                assert_never(chore)

    def _watch(self, trackers: Sequence[TrackerSettings]) -> None:
        for tracker in self._watched.keys() - set(trackers):
            self._watched.pop(tracker).cancel()
        for tracker in trackers:
            if tracker not in self._watched:
                self._watched[tracker] = asyncio.create_task(self._follow(tracker))

    async def _follow(self, tracker: TrackerSettings) -> None:
        verdict = Verdict(tracker.rise, tracker.fall)
        look = _run_script if tracker.type == TrackerKind.SCRIPT else _look_for_route
        while True:
            passed, evidence = await look(tracker)
            if verdict.take(passed):
                await self._tell(Found(tracker.type, tracker.subject, passed, evidence))
            await asyncio.sleep(tracker.interval)

    async def _call_in_order(self) -> None:
        while True:
            call = await self._calls.get()
            code, output = await _run(call.argv, call.user, call.timeout)
            if code != 0:
                await self._tell(Failed(f"{shlex.join(call.argv)}: {_ending(code, output)}"))
            self._calls.task_done()

    async def _apply(self, rules: str) -> None:
        code, output = await _run(("nft", "-f", "-"), "", 10.0, rules.encode())
        if code != 0:
            await self._tell(Failed(f"nft: {_ending(code, output)}"))

    async def _save(self, path: Path, text: str) -> None:
        """Whole or not at all."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_suffix(".new")
            fresh.write_text(text)
            fresh.replace(path)
        except OSError as error:
            await self._tell(Failed(f"{path}: cannot save what is to run: {error.strerror}"))

    async def _put_up(self, chore: PutUp) -> None:
        """Beside everything else: compiling takes seconds."""
        code, output = await _run(_fence(chore.pins, *chore.interfaces), "", FENCE_SECONDS)
        trouble = "" if code == 0 else output.strip()[-OUTPUT:] or _ending(code, output)
        await self._tell(Fenced(chore.interfaces, trouble))

    async def _tell(self, chore: AnyChore) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # nobody is left to be told
            await asyncio.get_running_loop().sock_sendall(self._link, encode(chore))


def _fence(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "lbctl.ha.loader", *words)


async def _run_script(tracker: TrackerSettings) -> tuple[bool, str]:
    argv = shlex.split(tracker.subject)
    code, output = await _run(argv, tracker.user, tracker.timeout)
    return code == 0, _ending(code, output)


async def _look_for_route(tracker: TrackerSettings) -> tuple[bool, str]:
    kernel = Netlink()
    try:
        return kernel.has_route(ip_network(tracker.subject)), "no such route"
    finally:
        kernel.close()


def _ending(code: int | None, output: str) -> str:
    """code: None: it did not end in time, or could not be started."""
    text = output.strip()[-OUTPUT:]
    if code is None:
        return text
    how = f"exit code {code}" if code >= 0 else f"ended by {signal.Signals(-code).name}"
    return f"{how}: {text}" if text else how


async def _run(
    argv: Sequence[str], user: str, timeout: float, given: bytes = b""
) -> tuple[int | None, str]:
    """Run a command as `user` (root only; "": as ourselves), in a process group of its own
    that does not outlive it."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            **_identity(user),
        )
    except (OSError, KeyError) as error:
        return None, f"cannot be started: {error}"
    try:
        output, _ = await asyncio.wait_for(process.communicate(given), timeout)
    except TimeoutError:
        return None, f"not done within {timeout:g} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return process.returncode, output.decode(errors="replace")


def _identity(user: str) -> dict[str, Any]:
    if not user or os.geteuid() != 0 or user == "root":
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _main(run: Coroutine[Any, Any, None]) -> None:
    # The terminal's Ctrl-C is for the VRRP process, which ends this one by closing its socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(run)


if __name__ == "__main__":
    link = socket.socket(fileno=int(sys.argv[1]))
    link.setblocking(False)
    _main(Watcher(link).run())
