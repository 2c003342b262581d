"""A hook that fails: bounded, counted, named, and no reason to lose another server."""

import subprocess
from pathlib import Path

from lbctl.lab.waiting import eventually

from .conftest import Daemon


def test_a_hook_that_fails_harms_nobody(stopped: Daemon) -> None:
    daemon = stopped
    hook = '    on_down: {run: [/bin/sh, -c, "echo no such machine; exit 3"], cooldown: 1h}\n'
    text = daemon.yaml(app1=1, app2=1).replace("    servers:\n", hook + "    servers:\n")
    daemon.file.write_text(text)
    daemon.start()
    eventually(lambda: health(daemon) == {"app1": "up", "app2": "up"}, 20)
    daemon.servers["app1"].stop()
    eventually(lambda: len(daemon.client.get("hooks")) == 1, 20)
    [run] = daemon.client.get("hooks")
    assert (run["server"], run["passed"], run["output"]) == ("web/app1", False, "no such machine\n")
    assert run["result"] == "exit status 3: no such machine"
    assert "web/app1: on_down failed (exit status 3: no such machine)" in daemon.log
    assert health(daemon)["app2"] == "up"
    sums = metrics(daemon.socket)
    labels = 'hook="on_down",result="failed",server="app1",service="web"'
    assert f"lbctl_hook_runs_total{{{labels}}} 1.0" in sums


def health(daemon: Daemon) -> dict[str, str]:
    rows = daemon.client.get("servers")
    return {row["name"].partition("/")[2]: row["health"] for row in rows}


def metrics(socket: Path) -> str:
    command = ["curl", "-s", "--unix-socket", str(socket), "http://lbctl/metrics"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
