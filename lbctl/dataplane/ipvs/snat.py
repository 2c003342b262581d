"""Full NAT's second half: the source address, translated by nftables. Pure.

IPVS translates the destination only. With `net.ipv4.vs.conntrack` it keeps netfilter's
connection entry, so a packet on its way to a server still tells by its *original*
direction which listen it came for, and `masquerade` gives it the gateway's address.

One table of our own, replaced as a whole in one transaction; a rule's comment is the
listen it serves, which is how the rules are read back.
"""

import json
from collections.abc import Collection
from typing import Any

from lbctl.model import FirewallMark, Frontend, parse_frontend

TABLE = "lbctl_fullnat"


def ruleset(frontends: Collection[Frontend]) -> str:
    """What `nft -f -` shall read. Without frontends: the table goes."""
    # `delete` fails on a table that is not there, so it is added first.
    lines = [f"add table inet {TABLE}", f"delete table inet {TABLE}"]
    if frontends:
        lines.append(f"add table inet {TABLE}")
        hook = "{ type nat hook postrouting priority srcnat; policy accept; }"
        lines.append(f"add chain inet {TABLE} source {hook}")
        lines += [
            f'add rule inet {TABLE} source {_match(one)} masquerade comment "{one}"'
            for one in sorted(frontends, key=lambda one: one.sort_key())
        ]
    return "\n".join(lines) + "\n"


def _match(frontend: Frontend) -> str:
    if isinstance(frontend, FirewallMark):
        return f"meta nfproto {frontend.family} meta mark {frontend.mark}"
    family = "ip" if frontend.address.version == 4 else "ip6"
    return (
        f"ct original {family} daddr {frontend.address}"
        f" meta l4proto {frontend.proto} ct original proto-dst {frontend.port}"
    )


def frontends_in(listing: str) -> frozenset[Frontend]:
    """The listens of `nft -j list table`. Raises ValueError."""
    document: Any = json.loads(listing)
    rules = [entry["rule"] for entry in document["nftables"] if "rule" in entry]
    return frozenset(parse_frontend(rule["comment"]) for rule in rules if "comment" in rule)
