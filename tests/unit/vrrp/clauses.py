"""The clauses of the RFCs that bind a VRRP router, in our words, and who covers each.

A test, here or in tests/lab/vrrp, says `@covers("9568 6.4.2-3")`;
`python -m tests.unit.vrrp.clauses` writes docs/vrrp-clauses.md from that, and test_clauses.py
fails when a clause has no test or the document is out of date.
"""

import ast
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).parents[3]
PLACES = {"": Path(__file__).parent, "lab ": ROOT / "tests" / "lab" / "vrrp"}
DOCUMENT = ROOT / "docs" / "vrrp-clauses.md"
Test = TypeVar("Test", bound=Callable[..., object])

CLAUSES = {
    "9568 5.1.1.1": "The source of IPv4 adverts is the interface's primary address.",
    "9568 5.1.1.2": "IPv4 adverts go to 224.0.0.18 (or, by configuration, to unicast peers).",
    "9568 5.1.1.3-1": "The IPv4 TTL is sent as 255.",
    "9568 5.1.1.3-2": "An IPv4 packet with another TTL is discarded.",
    "9568 5.1.2.1": "The source of IPv6 adverts is the interface's link-local address.",
    "9568 5.1.2.2": "IPv6 adverts go to ff02::12 (or, by configuration, to unicast peers).",
    "9568 5.1.2.3-1": "The IPv6 hop limit is sent as 255.",
    "9568 5.1.2.3-2": "An IPv6 packet with another hop limit is discarded.",
    "9568 5.2.2": "A packet of another type than 1 is discarded.",
    "9568 5.2.4-1": "The owner of the addresses has priority 255, the others 1 to 254.",
    "9568 5.2.4-2": "Priority 0 says that the Active stops taking part.",
    "9568 5.2.5": "An advert without addresses is ignored (erratum 8299).",
    "9568 5.2.6": "The reserved bits are sent as zero and ignored on reception.",
    "9568 5.2.7": "The interval is in centiseconds, 12 bits.",
    "9568 5.2.8-1": "The IPv6 checksum includes the pseudo-header.",
    "9568 5.2.8-2": "The IPv4 checksum has a form without pseudo-header; both are accepted.",
    "9568 5.2.9-1": "The first IPv6 address is the virtual router's link-local one.",
    "9568 5.2.9-2": "The addresses are of the family of the IP header.",
    "9568 6.1-1": "Skew_Time = ((256 - priority) * Active_Adver_Interval) / 256.",
    "9568 6.1-2": "Active_Down_Interval = 3 * Active_Adver_Interval + Skew_Time.",
    "9568 6.1-3": "The owner preempts whatever Preempt_Mode says.",
    "9568 6.1-4": "Accept_Mode False: no packet to the addresses is delivered; discovery passes.",
    "9568 6.1-5": "Accept_Mode does not bind the owner.",
    "9568 6.4.1-1": "Startup, priority 255: send an advert, announce, to Active.",
    "9568 6.4.1-2": "Startup otherwise: Active_Adver_Interval is the own one, to Backup.",
    "9568 6.4.2-1": "Backup does not answer for the addresses.",
    "9568 6.4.2-2": "Backup, Shutdown: cancel the timer, to Initialize.",
    "9568 6.4.2-3": "Backup, Active_Down_Timer: send an advert, announce, to Active.",
    "9568 6.4.2-4": "Backup, advert with priority 0: Active_Down_Timer to Skew_Time.",
    "9568 6.4.2-5": "Backup, priority at least ours, or Preempt_Mode False: adopt the interval.",
    "9568 6.4.2-6": "Backup, lower priority, Preempt_Mode True: discard the advert.",
    "9568 6.4.2-7": "Backup takes no frame to the virtual MAC.",
    "9568 6.4.3-1": "Active, Shutdown: send priority 0, to Initialize.",
    "9568 6.4.3-2": "Active, Adver_Timer: send an advert, reset the timer.",
    "9568 6.4.3-3": "Active, advert with priority 0: send an advert, reset the timer.",
    "9568 6.4.3-4": "Active, higher priority: adopt its interval, to Backup.",
    "9568 6.4.3-5": "Active, same priority, greater address: to Backup.",
    "9568 6.4.3-6": "Active, outranked advert: discard it and send one at once.",
    "9568 6.4.3-7": "Active answers ARP and neighbour solicitations for the addresses.",
    "9568 7.1-1": "The version must be the one configured.",
    "9568 7.1-2": "The packet must be complete, fixed fields and addresses.",
    "9568 7.1-3": "The checksum must be right.",
    "9568 7.1-4": "The VRID must be configured on the receiving interface.",
    "9568 7.1-5": "The interval must not be zero (erratum 8301).",
    "9568 7.1-6": "The checks are made in that order; the first that fails is the one counted.",
    "9568 7.1-7": "Other addresses than configured are told to the operator.",
    "9568 7.1-8": "An owner that hears another's advert tells it (erratum 8298).",
    "9568 7.2-1": "Source MAC is the virtual router MAC, source IP the interface's primary one.",
    "9568 7.2-2": "Protocol 112, with the checksum computed.",
    "9568 7.3": "The virtual MAC is 00-00-5E-00-01-{VRID}, 00-00-5E-00-02-{VRID} for IPv6.",
    "9568 8.1.2-1": "ARP requests for the addresses are answered with the virtual MAC.",
    "9568 8.1.2-2": "Gratuitous ARP carries the virtual MAC (errata 7947, 7949).",
    "9568 8.2.2": "Neighbour solicitations for the addresses are answered with the virtual MAC.",
    "9568 8.2.4": "Unsolicited NA: Router and Override set, Solicited clear, virtual MAC.",
    "3768 5.3.6": "Authentication data is accepted, and ignored, on reception.",
    "3768 6.1-1": "Skew_Time = (256 - priority) / 256 seconds.",
    "3768 6.1-2": "Master_Down_Interval = 3 * Advertisement_Interval + Skew_Time.",
    "3768 7.1-1": "The interval must be the one configured.",
    "3768 7.1-2": "Other addresses than configured: dropped unless from the owner.",
    "6527": "Every receive error has its counter.",
}

NOT_DONE = {
    "9568 6.4.3 router advertisements": "lbctl sends none for a virtual router: hosts are given "
    "its address as their gateway or by radvd (docs/vrrp.md).",
    "9568 6.1 Accept_Mode's default": "`accept` is true unless configured otherwise: a load "
    "balancer's address is there to be spoken to.",
    "9568 8.1.1, 8.2.1 ICMP redirects": "The kernel sends redirects for an interface unless "
    "its `send_redirects` says no; lbctl does not touch it.",
    "9568 8.1.3 proxy ARP": "The kernel's, where `proxy_arp` is set; lbctl does not set it.",
    "9568 8.3.1 forwarding loops": "Which packets a Backup forwards is the kernel's routing.",
    "9568 8.4 v2 and v3 at once": "A virtual router speaks one version; two routers with two "
    "VRIDs do for a migration.",
    "9568 6.4.2 Backup's advert of a lower priority": "`preempt_delay`, `failover` and "
    "`preempt: when-synced` let a Backup follow such an Active for a while, as Preempt_Mode "
    "False would.",
    "9568 6.4.3 Shutdown": "The addresses are given up at the successor's first advert, not at "
    "once; a second stop does not wait.",
    "9568 6.4.2 order on promotion": "The addresses are taken before the advert is sent.",
    "3768 5.3.6 authentication on transmission": "Type 0 is sent, as RFC 3768 asks.",
}


def covers(*clauses: str) -> Callable[[Test], Test]:
    """Marks a test as the one for these clauses."""
    unknown = set(clauses) - CLAUSES.keys()
    assert not unknown, f"no such clause: {unknown}"
    return lambda test: test


def coverage() -> dict[str, list[str]]:
    """Clause -> the tests that say they cover it, as `file::test` or `lab file::test`."""
    found: dict[str, list[str]] = {clause: [] for clause in CLAUSES}
    files = [(mark, one) for mark, at in PLACES.items() for one in sorted(at.glob("test_*.py"))]
    for mark, path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                for clause in _claims(node):
                    found[clause].append(f"{mark}{path.stem}::{node.name}")
    return found


def _claims(function: ast.FunctionDef) -> list[str]:
    return [
        ast.literal_eval(argument)
        for call in function.decorator_list
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)
        if call.func.id == "covers"
        for argument in call.args
    ]


def document() -> str:
    lines = [
        "# VRRP: the RFCs' clauses and their tests",
        "",
        "Generated by `python -m tests.unit.vrrp.clauses`; the clauses are in our words.",
        "",
        "| clause | what it asks | tests (tests/unit/vrrp; lab: tests/lab/vrrp) |",
        "|---|---|---|",
    ]
    for clause, tests in coverage().items():
        named = "<br>".join(f"`{test}`" for test in tests)
        lines.append(f"| RFC {clause} | {CLAUSES[clause]} | {named} |")
    lines += ["", "What is deliberately not done, or done otherwise:", ""]
    lines += [f"- RFC {clause}: {why}" for clause, why in NOT_DONE.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.write_text(document())
