"""Self-healing: a real server in a container is brought back, and once replaced from a
snapshot; the cooldown and the hourly limit hold."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lbctl.lab import eventually

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(
        not (shutil.which("podman") and shutil.which("runc") and shutil.which("busybox")),
        reason="no podman, runc or busybox: `make test` installs them",
    ),
]
PATIENCE = 30.0
COOLDOWN = 2.0
PER_HOUR = 3
ADDRESS = "127.0.0.9"
LIMITS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")
HEAL = """#!/bin/sh
# Start the server again; if that does not help, replace it from its snapshot.
set -e
echo "$LBCTL_EVENT of $LBCTL_SERVICE/$LBCTL_SERVER: $LBCTL_EVIDENCE"
well() {{
    for try in 1 2 3 4 5; do
        curl -sfm 1 http://{address}:{port}/ && return
        sleep 0.2
    done
    false
}}
if {podman} start {name} && well; then echo started; exit; fi
{podman} rm -f -t 0 {name}
{podman} run -d --name {name} {limits} --network host {name}-snapshot {server}
well
echo replaced
"""
CONFIG = """
apiVersion: lbctl/v1
gateway: {{front: lo}}
services:
  web:
    listen: 192.0.2.10:80/tcp
    check: {{type: http, interval: 200ms, timeout: 150ms, fall: 2, rise: 1, fast_interval: 100ms}}
    servers: {{app1: "{address}:{port}"}}
    on_down: {{run: {heal}, cooldown: {cooldown}s, per_hour: {per_hour}, timeout: 20s}}
"""


class Container:
    """A web server in a container of a podman of its own."""

    def __init__(self, where: Path) -> None:
        self.where, self.name = where, f"lbctl-{os.getpid()}"
        self.port = 20000 + os.getpid() % 10000
        short = f"/run/{self.name}"  # podman takes no more than 50 characters
        self.base = [
            *("podman", "--root", str(where / "root"), "--runroot", short),
            *("--storage-driver", "vfs", "--runtime", "runc", "--cgroup-manager", "cgroupfs"),
            *("--events-backend", "none"),
        ]
        self.server = ["/bin/httpd", "-f", "-p", f"{ADDRESS}:{self.port}", "-h", "/www"]

    def podman(self, *words: str) -> str:
        done = subprocess.run([*self.base, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def make(self) -> None:
        image = self.where / "image"
        for name in ("bin", "www", "proc", "sys", "dev", "etc", "tmp"):
            (image / name).mkdir(parents=True)
        shutil.copy(str(shutil.which("busybox")), image / "bin/busybox")
        for name in ("sh", "httpd", "rm"):
            (image / "bin" / name).symlink_to("busybox")
        (image / "www/index.html").write_text("well\n")
        tar = str(self.where / "image.tar")
        subprocess.run(["tar", "-C", str(image), "-cf", tar, "."], check=True)
        self.podman("import", tar, f"{self.name}-image")
        run = ("run", "-d", "--name", self.name, *LIMITS, "--network", "host")
        self.podman(*run, f"{self.name}-image", *self.server)
        self.podman("commit", self.name, f"{self.name}-snapshot")

    def heal(self) -> Path:
        file = self.where / "heal.sh"
        words = {"podman": " ".join(self.base), "limits": " ".join(LIMITS)}
        text = HEAL.format(
            address=ADDRESS, port=self.port, name=self.name, server=" ".join(self.server), **words
        )
        file.write_text(text)
        file.chmod(0o755)
        return file

    def end(self) -> None:
        subprocess.run([*self.base, "rm", "-f", "-t", "0", "-a"], capture_output=True, check=False)
        shutil.rmtree(f"/run/{self.name}", ignore_errors=True)


class Daemon:
    def __init__(self, where: Path, container: Container) -> None:
        file = where / "lbctl.yaml"
        file.write_text(
            CONFIG.format(
                address=ADDRESS,
                port=container.port,
                heal=container.heal(),
                cooldown=COOLDOWN,
                per_hour=PER_HOUR,
            )
        )
        self.verb = [sys.executable, "-m", "lbctl.cli.main", "--socket", str(where / "sock")]
        places = ["--config", str(file), "--state", str(where / "state"), "--pins", str(where)]
        self.process = subprocess.Popen([*self.verb, "daemon", *places, "--datapath", "fake"])

    def get(self, what: str) -> Any:
        command = [*self.verb, "get", what, "-j"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def is_up(self) -> bool:
        return self.get("servers")[0]["health"] == "up"

    def is_down(self) -> bool:
        return self.get("servers")[0]["health"] == "down"

    def told(self, what: str) -> bool:
        return any(what in one["text"] for one in self.get("events"))


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    one = Container(tmp_path)
    try:
        one.make()
        yield one
    finally:
        one.end()


@pytest.fixture
def daemon(tmp_path: Path, container: Container) -> Iterator[Daemon]:
    one = Daemon(tmp_path, container)
    yield one
    one.process.terminate()
    one.process.wait(PATIENCE)


def test_a_killed_server_comes_back_and_a_destroyed_one_is_replaced(
    container: Container, daemon: Daemon
) -> None:
    eventually(daemon.is_up, PATIENCE)
    container.podman("kill", container.name)
    eventually(lambda: len(daemon.get("hooks")) == 1, PATIENCE)
    eventually(daemon.is_up, PATIENCE)
    [first] = daemon.get("hooks")
    assert first["passed"]
    assert first["output"].startswith("on_down of web/app1: 2 of 2 probes: connection refused")
    assert first["output"].endswith("started\n")

    container.podman("exec", container.name, "/bin/rm", "-rf", "/www")
    container.podman("kill", container.name)
    eventually(lambda: len(daemon.get("hooks")) == 2, PATIENCE)
    eventually(daemon.is_up, PATIENCE)
    second = daemon.get("hooks")[0]
    assert second["output"].endswith("replaced\n"), second
    assert second["at"] - (first["at"] + first["took"]) >= COOLDOWN - 0.01

    container.podman("kill", container.name)
    eventually(lambda: len(daemon.get("hooks")) == PER_HOUR, PATIENCE)
    eventually(daemon.is_up, PATIENCE)
    container.podman("kill", container.name)
    eventually(daemon.is_down, PATIENCE)
    limit = f"web/app1: on_down is not run again: {PER_HOUR} times in an hour is all"
    eventually(lambda: daemon.told(limit), PATIENCE)
    assert len(daemon.get("hooks")) == PER_HOUR
    assert daemon.is_down()
