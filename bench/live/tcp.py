"""HTTP and bulk TCP through a lab's gateway: lbctl, nftables DNAT, HAProxy in TCP mode.

Each has a lab of its own with three servers; they take turns. On veth this grades the
links more than the balancer: nobody wins or loses a target here. Segmentation offload is
off at the senders where XDP translates, as it has to be there, and on for the others.
"""

import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from bench.report import Report
from lbctl.lab import Lab, eventually, standard
from lbctl.lab.load import Pace, failures, send

ROUNDS = 4
VIP, HTTP, BULK = "192.0.2.10", 80, 81
SECONDS = 3
FILE = """\
apiVersion: lbctl/v1
gateway: {{front: front, back: back, datapath: xdp}}
services:
  web: {{listen: '{vip}:80/tcp', check: none, servers: {{{web}}}}}
  bulk: {{listen: '{vip}:81/tcp', check: none, servers: {{{bulk}}}}}
"""
NFT = """\
table ip balance {{
  chain in {{
    type nat hook prerouting priority dstnat;
    ip daddr {vip} tcp dport {{ 80, 81 }} dnat ip to numgen inc mod 3 map {{ {servers} }}
  }}
}}
"""
HAPROXY = """\
global
    maxconn 4000
defaults
    mode tcp
    timeout connect 5s
    timeout client 30s
    timeout server 30s
listen web
    bind {vip}:80
{web}
listen bulk
    bind {vip}:81
{bulk}
"""


def lbctl(lab: Lab) -> None:
    def servers(port: int) -> str:
        return ", ".join(f"{one.name}: '{one.address}:{port}'" for one in lab.servers)

    lab.gateway.config(FILE.format(vip=VIP, web=servers(HTTP), bulk=servers(BULK)))
    lab.gateway.daemon()


def nftables(lab: Lab) -> None:
    servers = ", ".join(f"{n} : {one.address}" for n, one in enumerate(lab.servers))
    command = lab.gateway.command(["nft", "-f", "-"])
    text = NFT.format(vip=VIP, servers=servers)
    subprocess.run(command, input=text, text=True, check=True)
    _own_vip(lab)


def haproxy(lab: Lab) -> None:
    def servers(port: int) -> str:
        return "\n".join(f"    server {s.name} {s.address}:{port}" for s in lab.servers)

    _own_vip(lab)
    lab.gateway.home.mkdir(parents=True, exist_ok=True)
    file = lab.gateway.home / "haproxy.cfg"
    file.write_text(HAPROXY.format(vip=VIP, web=servers(HTTP), bulk=servers(BULK)))
    lab.gateway.start(["haproxy", "-db", "-q", "-f", file])


def _own_vip(lab: Lab) -> None:
    """The stack answers for the VIP, and offloads are as they are by default."""
    lab.gateway.run(["ip", "address", "add", f"{VIP}/32", "dev", "front"])
    for host in lab:
        for nic in host.spec.nics:
            host.run(["ethtool", "-K", nic.name, "tx", "on"])


PEERS = {"lbctl": lbctl, "nftables DNAT": nftables, "HAProxy": haproxy}


def _ready(lab: Lab) -> None:
    url = f"http://{VIP}:{HTTP}/"
    eventually(lambda: not failures(send(lab.client, url, Pace(total=3))), timeout=60)
    for server in lab.servers:
        server.start([sys.executable, Path(__file__).with_name("bulk.py"), "serve", str(BULK)])


def _requests(lab: Lab, *headers: str) -> float:
    words = ["wrk", "-t", "1", "-c", "32", "-d", f"{SECONDS}s", *headers, f"http://{VIP}:{HTTP}/"]
    said = lab.client.run(words).stdout
    found = re.search(r"Requests/sec:\s+([\d.]+)", said)
    assert found, said
    return float(found[1])


def _bulk(lab: Lab) -> float:
    words = [sys.executable, Path(__file__).with_name("bulk.py"), "fetch", VIP, str(BULK)]
    return float(lab.client.run([*words, str(SECONDS)]).stdout) / 1e9


def measure(report: Report, rounds: int = ROUNDS) -> None:
    kinds = {
        "HTTP, kept connections": ("requests/s", lambda lab: _requests(lab)),
        "HTTP, one connection each": (
            "requests/s",
            lambda lab: _requests(lab, "-H", "Connection: close"),
        ),
        "bulk TCP": ("Gbit/s", _bulk),
    }
    found: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        labs = {name: stack.enter_context(Lab(standard())) for name in PEERS}
        for name, lab in labs.items():
            PEERS[name](lab)
        for lab in labs.values():
            _ready(lab)
        for _ in range(rounds):
            for kind, (_, ask) in kinds.items():
                for name, lab in labs.items():
                    found.setdefault((kind, name), []).append(ask(lab))
    for (kind, name), samples in found.items():
        report.case(f"{kind}: {name}", samples, kinds[kind][0])
