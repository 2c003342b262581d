"""The part that runs on the kernel with IPVS; writes its figures as JSON.

python -m bench.ipvs.guest OUT
"""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.ipvs.table import PLACES, SERVER_NET, file, keepalived, rules, table
from lbctl.cli.client import Client
from lbctl.dataplane.converge import converge
from lbctl.dataplane.ipvs.codec import Command, server_entry, service_key
from lbctl.dataplane.ipvs.netlink import open_ipvs
from lbctl.dataplane.ipvs.plane import IpvsPlane
from lbctl.errors import LbctlError
from lbctl.model import Table

ROUNDS = 5
PATIENCE = 300.0  # seconds for keepalived
ANSWER = """
import socket
with socket.create_server(("", 80), backlog=4096) as listener:
    while True:
        listener.accept()[0].close()
"""


def main():
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "rules").write_text(rules(table()))
        figures = {
            **side_by_side(work),
            "ipvsadm_calls": calls(["ipvsadm", "-R"], work, work / "rules"),
            "process_calls": calls(ours(work), work),
            "idle_calls": calls([*ours(work), "0"], work),
            **data_path(work),
            **command(work),
            "keepalived_reload": reload_keepalived(work),
            **checked(work),
        }
    Path(sys.argv[1]).write_text(json.dumps(figures))


def ours(work):
    return [sys.executable, "-m", "bench.ipvs.restore", str(work / "intent.json")]


def clear(work):
    subprocess.run(["ipvsadm", "-C"], check=True)
    (work / "intent.json").unlink(missing_ok=True)


def cpu(command, stdin=None):
    """CPU seconds of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with open(stdin or os.devnull) as source:
        subprocess.run(command, stdin=source, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def calls(command, work, stdin=None):
    """System calls of a command on an empty table, as strace counts them."""
    clear(work)
    with open(stdin or os.devnull) as source:
        strace = ["strace", "-f", "-c", "-o", str(work / "trace"), *command]
        subprocess.run(strace, stdin=source, check=True)
    total = next(
        line for line in (work / "trace").read_text().splitlines() if line.endswith(" total")
    )
    return int(total.split()[3])


def side_by_side(work):
    """CPU seconds to program the table. Turn by turn, since a guest's clock, and with it its
    CPU time, also counts what the host does for others."""
    found = {"ipvsadm_cpu": [], "process_cpu": [], "daemon_cpu": []}
    for _ in range(ROUNDS):
        clear(work)
        found["ipvsadm_cpu"].append(cpu(["ipvsadm", "-R"], work / "rules"))
        clear(work)
        plane, wanted = IpvsPlane(work / "intent.json"), table()
        started = time.process_time()
        assert converge(plane, wanted, Table()).refused == ()
        found["daemon_cpu"].append(time.process_time() - started)
        plane.close()
        clear(work)
        found["process_cpu"].append(cpu(ours(work)))
    return found


def data_path(work):
    """What a daemon's data path writes, and how soon a change that it was told of is in the
    kernel. No daemon runs here; one does in `command`."""
    clear(work)
    plane = IpvsPlane(work / "intent.json")
    assert converge(plane, table(), Table()).refused == ()
    written = sum(plane.stats().writes.values())
    started = time.process_time()
    same = converge(plane, table())
    look = time.process_time() - started
    assert same.asked == ()
    unchanged = sum(plane.stats().writes.values()) - written
    latencies = [latency(plane, place) for place in PLACES]
    changed = sum(plane.stats().writes.values()) - written - unchanged
    plane.close()
    return {
        "written": written,
        "look_cpu": look,
        "unchanged_writes": unchanged,
        "weight_writes": changed / len(latencies),
        "weight_latency": latencies,
    }


def checked(work):
    """The same where each server has a check, as both are used. All answer."""
    subprocess.run(["ip", "route", "add", "local", str(SERVER_NET), "dev", "lo"], check=True)
    with subprocess.Popen([sys.executable, "-c", ANSWER]) as answering:
        try:
            found = command(work, checked=True)
            reload = reload_keepalived(work, checked=True)
        finally:
            answering.terminate()
    return {
        "checked_command": found["command"],
        "checked_answer": found["answer"],
        "checked_reload": reload,
    }


def command(work, checked=False):
    """Seconds from a change that a running daemon is asked for until the changed weight is in
    the kernel, and until its answer: a person's `lbctl weight` without its own start."""
    clear(work)
    (work / "lbctl.yaml").write_text(file(table(), checked))
    socket = work / "socket"
    places = [("config", "lbctl.yaml"), ("state", "state"), ("pins", "pins")]
    words = [word for key, name in places for word in (f"--{key}", str(work / name))]
    daemon = [sys.executable, "-m", "lbctl.cli.main", "--socket", str(socket), "daemon", *words]
    log = (work / "daemon.log").open("wb")
    with subprocess.Popen(daemon, stdout=log, stderr=log) as process:
        try:
            client = Client(str(socket))
            wait(lambda: answers(client))
            found = [ask(client, place) for place in (*PLACES, *PLACES)]
            before = writes(client)
            client.post("reload", body={})
            in_kernel, answered = zip(*found, strict=True)
            return {
                "command": in_kernel,
                "answer": answered,
                "reload_writes": writes(client) - before,
            }
        finally:
            process.terminate()
            process.wait()


def answers(client):
    try:
        client.get("overrides")
    except LbctlError:
        return False
    return True


def ask(client, place):
    weight = Weight(place)
    wanted = weight() + 1
    path = ["services", f"s{place}", "servers", "a0", "weight"]
    with ThreadPoolExecutor(1) as pool:
        started = time.monotonic()
        answer = pool.submit(post, client, {"path": path, "value": wanted})
        wait(lambda: weight() == wanted)
        in_kernel = time.monotonic() - started
        return in_kernel, answer.result() - started


def post(client, order):
    """When it was answered."""
    client.post("overrides", body=order)
    return time.monotonic()


def writes(client):
    client.get("servers", service="s0", fresh="1")
    return sum(client.get("stats", service="s0")["writes"].values())


def latency(plane, place):
    """Seconds from a changed weight to the kernel. As the daemon does it: a mark names the
    service, and only that is planned."""
    (frontend, service), (_, wanted) = (
        list(table(weight, place).services.items())[place] for weight in (1, 2)
    )
    weight = Weight(place)
    started = time.monotonic()
    report = converge(plane, Table({frontend: wanted}), Table({frontend: service}))
    assert weight() == 2, report
    return time.monotonic() - started


def reload_keepalived(work, checked=False):
    """Seconds from SIGHUP until the changed weight is in the kernel, seen as in `command`."""
    clear(work)
    config = work / "keepalived.conf"
    config.write_text(keepalived(table(), checked))
    command = ["keepalived", "-n", "-l", "-C", "-f", str(config)]
    command += ["-p", str(work / "pid"), "-c", str(work / "checkers")]
    log = (work / "log").open("wb")
    with subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            wait(lambda: count_servers() == 10_000)
            return [reload_one(process, config, place, checked) for place in PLACES]
        finally:
            process.terminate()
            process.wait()


def reload_one(process, config, place, checked):
    config.write_text(keepalived(table(2, place), checked))
    weight = Weight(place)
    started = time.monotonic()
    process.send_signal(signal.SIGHUP)
    wait(lambda: weight() == 2)
    return time.monotonic() - started


class Weight:
    """The first server's in service number `place`, read from the kernel by one request: a
    process that asks would take longer than the change that it looks for."""

    def __init__(self, place):
        self.listen, service = list(table().services.items())[place]
        self.first = next(iter(service.destinations))
        self.netlink = open_ipvs()

    def __call__(self):
        dump = self.netlink.dump(Command.GET_DEST, service_key(self.listen))
        entries = [server_entry(one, self.listen.family) for one in dump]
        found = {one.endpoint: one.destination.weight for one in entries}
        return found[self.first]


def count_servers():
    return Path("/proc/net/ip_vs").read_text().count("  -> ") - 1


def wait(check):
    end = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < end, "it did not get there"
        time.sleep(0.005)


if __name__ == "__main__":
    main()
