"""DNS side by side: lbctl, gdnsd, Knot with geoip, PowerDNS with geoip.

One zone, 1,000 names, one database of 50,000 + 5,000 networks, every query with its own
client subnet. Each server has one UDP thread on core 0, the generator is on core 1. Servers
take turns within each round, so that a noisy minute is noisy for all; medians are printed.

CPU per query counts all threads and children of a server. lbctl runs as a user would run
it: with statistics, rate limit (set above the load) and cookies.

    make bench-dns                    all of it
    make bench-dns ARGS=--quick       fewer rounds
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench.control import dns_load, dns_peers
from bench.control.dns_database import database, prefixes
from bench.report import Report
from lbctl.gslb.knowledge import learn, read_databases
from lbctl.gslb.run import read

OUT = Path(__file__).parents[1] / "out"
NAMES, NETWORKS, LARGE = 1000, 50_000, 400_000
PORTS = {"lbctl": 5300, "gdnsd": 5301, "knot": 5302, "pdns": 5303}


def lbctl(directory, databases, names, port):
    directory.mkdir(parents=True)
    members = "{" + ", ".join(f"{s}: {a}" for s, a in dns_peers.ADDRESSES.items()) + "}"
    balanced = "\n".join(
        f"        www{i}: {{policy: geo, ttl: 60, members: {members}}}" for i in range(names)
    )
    (directory / "zone").write_text(f"$TTL 60\n{dns_peers.SOA}\n@ NS ns1\nns1 A 192.0.2.1\n")
    (directory / "lbctl.yaml").write_text(f"""apiVersion: lbctl/v1
gateway: {{front: lo}}
gslb:
  listen: 127.0.0.1:{port}
  processes: 1
  rate_limit: {{responses: 100000000, errors: 100000000}}
  observers: {{quorum: 1}}
  databases: {{{databases}}}
  sites: {{seoul: {{location: [37.6, 127]}}, tokyo: {{location: [35.7, 139.7]}},
          frankfurt: {{location: [50.1, 8.7]}}}}
  policies:
    geo:
      steps: [healthy, country: {{KR: seoul, JP: tokyo, DE: frankfurt}}, failover]
  zones:
    gslb.example:
      file: zone
      names:
{balanced}
""")
    return [sys.executable, "-m", "lbctl.cli.main", "gslb", "serve", "--config",
            str(directory / "lbctl.yaml"), "--runtime", str(directory / "run")]  # fmt: skip


def family(pid):
    """A process and its children."""
    found = [pid]
    for task in os.listdir(f"/proc/{pid}/task"):
        for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
            found += family(int(child))
    return found


def cpu(pid):
    """Seconds of CPU that a server has used, all threads and children."""
    total = 0
    for one in family(pid):
        for task in os.listdir(f"/proc/{one}/task"):
            total += int(Path(f"/proc/{one}/task/{task}/schedstat").read_text().split()[0])
    return total / 1e9


def pin(pid, core):
    for one in family(pid):
        for task in os.listdir(f"/proc/{one}/task"):
            os.sched_setaffinity(int(task), {core})


def start_all(stack, scratch, country):
    commands = {
        "lbctl": lbctl(scratch / "lbctl", f"country: {country}", NAMES, PORTS["lbctl"]),
        "gdnsd": dns_peers.gdnsd(scratch / "gdnsd", country, NAMES, PORTS["gdnsd"]),
        "knot": dns_peers.knot(scratch / "knot", country, NAMES, PORTS["knot"]),
        "pdns": dns_peers.pdns(scratch / "pdns", country, NAMES, PORTS["pdns"]),
    }
    servers = {}
    for name, command in commands.items():
        if shutil.which(command[0]) is None:
            print(f"{name}: not installed, left out")
            continue
        log = scratch / f"{name}.log"
        servers[name] = stack.enter_context(dns_peers.running(command, log, PORTS[name])).pid
        pin(servers[name], 0)
    return servers


def rates(servers, rounds, seconds):
    """CPU microseconds per query, by (server, kind of query); the queries; and lbctl's rate
    as the generator saw it."""
    asked = [packed for packed, _ in prefixes(NETWORKS)]
    kinds = {"ECS": False, "cookies": True}
    made = {
        kind: dns_load.queries(50_000, NAMES, asked, cookie=cookie)
        for kind, cookie in kinds.items()
    }
    found: dict[tuple[str, str], list[float]] = {}
    speed: list[float] = []
    for number in range(rounds + 1):
        for name, pid in servers.items():
            generator = dns_load.Generator(("127.0.0.1", PORTS[name]))
            for kind, queries in made.items():
                before = cpu(pid)
                result = generator.saturate(queries, seconds)
                used = cpu(pid) - before
                if number and result.answered:  # the first round warms up
                    found.setdefault((name, kind), []).append(used / result.answered * 1e6)
                    if (name, kind) == ("lbctl", "ECS"):
                        speed.append(result.answered / result.seconds)
            generator.socket.close()
    return found, made, statistics.median(speed)


def latencies(servers, made, rate, rounds, seconds):
    """(p50, p99, share lost) at `rate`, in microseconds, of each round. Who is asked first
    takes turns."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    peers = [name for name in ("lbctl", "gdnsd") if name in servers]
    for number in range(rounds):
        for name in peers[:: -1 if number % 2 else 1]:
            generator = dns_load.Generator(("127.0.0.1", PORTS[name]))
            result = generator.paced(made, rate, seconds)
            lost = 1 - result.answered / result.sent
            found.setdefault(name, []).append((result.p50 * 1e6, result.p99 * 1e6, lost))
            generator.socket.close()
    return found


def compile_large(scratch):
    """Seconds of CPU (it is one thread) from a 400,000-network database of cities to
    tables, three times."""
    large = database(OUT / f"networks-{LARGE}.mmdb", LARGE, cities=200)
    lbctl(scratch / "large", f"city: {large}", NAMES, 5309)
    gslb = read(scratch / "large" / "lbctl.yaml", "local")
    took = []
    for _ in range(3):
        start = time.process_time()
        learn(gslb, read_databases(gslb, {}))
        took.append(time.process_time() - start)
    return took


def swap(scratch):
    """Queries sent and lost while a 400,000-network database replaces itself."""
    directory = scratch / "swap"
    copy = scratch / "city.mmdb"
    shutil.copy(OUT / f"networks-{LARGE}.mmdb", copy)
    command = lbctl(directory, f"city: {copy}", NAMES, 5308)
    with dns_peers.running(command, scratch / "swap.log", 5308):
        asked = [packed for packed, _ in prefixes(1000)]
        made = dns_load.queries(60_000, NAMES, asked)
        shutil.copy(copy, scratch / "new.mmdb")
        (scratch / "new.mmdb").replace(copy)
        before = _changes(directory)
        sent = lost = 0
        deadline = time.monotonic() + 60
        while _changes(directory) == before and time.monotonic() < deadline:
            generator = dns_load.Generator(("127.0.0.1", 5308))
            result = generator.paced(made, 2000, 2.0)
            sent += result.sent
            lost += result.sent - result.answered
            generator.socket.close()
        return {"sent": sent, "lost": lost, "swapped": _changes(directory) > before}


def _changes(directory):
    path = directory / "run" / "gslb.sock"
    done = subprocess.run(
        [sys.executable, "-m", "lbctl.cli.main", "gslb", f"--gslb-socket={path}", "status", "-j"],
        capture_output=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)["changes"]


def right(servers):
    """The share of 300 networks that each server sends to the right site."""
    asked = prefixes(NETWORKS)[:300]
    shares = {}
    for name in servers:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(("127.0.0.1", PORTS[name]))
            client.settimeout(1.0)
            good = 0
            for packed, country in asked:
                client.send(dns_load.queries(1, 1, [packed])[0])
                site = dns_peers.BY_COUNTRY.get(country, "seoul")
                good += socket.inet_aton(dns_peers.ADDRESSES[site]) in client.recv(1500)
            shares[name] = good / len(asked)
    return shares


def fill(report, found, latency, rate, compiled, swapped):
    """Cases, and the targets they are held to."""
    for (name, kind), values in found.items():
        report.case(f"{name}, {kind}", values, "us of CPU per query")
    for peer, kind, limit in (("gdnsd", "ECS", 0.7), ("gdnsd", "cookies", 0.5), ("pdns", "ECS", 3)):
        if (peer, kind) in found:
            # The median over rounds of each round's ratio: noise hits both sides of it.
            pairs = zip(found[peer, kind], found["lbctl", kind], strict=True)
            ratio = statistics.median(theirs / ours for theirs, ours in pairs)
            report.target(f"rate per core, {kind}, lbctl / {peer}", ratio, "x", ">=", limit)
    for name, values in latency.items():
        report.case(f"{name}, p50 at {rate}/s", [p50 for p50, _, _ in values], "us")
        report.case(f"{name}, p99 at {rate}/s", [p99 for _, p99, _ in values], "us")
        report.case(f"{name}, lost at {rate}/s", [lost * 100 for *_, lost in values], "%")
    if "gdnsd" in latency:
        p99 = {name: statistics.median(p for _, p, _ in values) for name, values in latency.items()}
        share = p99["lbctl"] / p99["gdnsd"]
        report.target("p99 at half load, lbctl / gdnsd", share, "x", "<=", 1.0)
    report.case(f"{LARGE} networks compiled", compiled, "s of CPU")
    report.target(f"{LARGE} networks compiled", min(compiled), "s of CPU", "<=", 5.0)
    report.target("queries lost by a swap", swapped["lost"], f"of {swapped['sent']}", "<=", 0)
    report.target("the swap happened", float(swapped["swapped"]), "", ">=", 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer, shorter rounds")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.inside:
        # Everything on the loopback of a namespace of our own.
        again = [sys.executable, "-m", "bench.dns", "--inside", *sys.argv[1:]]
        sys.exit(subprocess.run(["unshare", "--net", *again], check=False).returncode)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    country = database(OUT / f"networks-{NETWORKS}.mmdb", NETWORKS)
    report = Report("dns")
    rounds, seconds = (3, 0.5) if options.quick else (9, 1.0)
    with tempfile.TemporaryDirectory(prefix="bench-dns-") as name:
        scratch = Path(name)
        compiled = compile_large(scratch)
        with ExitStack() as stack:
            os.sched_setaffinity(0, {0})
            servers = start_all(stack, scratch, country)
            os.sched_setaffinity(0, {max(os.cpu_count() or 1, 2) - 1})
            for peer, share in right(servers).items():
                print(f"{peer}: {share:.0%} of 300 networks get the right site")
            found, made, speed = rates(servers, rounds, seconds)
            rate = int(speed / 2)
            latency = latencies(servers, made["ECS"], rate, 2 * rounds, seconds)
        swapped = swap(scratch)
    fill(report, found, latency, rate, compiled, swapped)
    sys.exit(report.finish())


if __name__ == "__main__":
    main()
