"""Full NAT's second half: the source address, translated by nftables. Pure.

IPVS translates the destination only. With `net.ipv4.vs.conntrack` it keeps netfilter's
connection entry, so a packet on its way to a server still tells by its *original*
direction which listen it came for, and `masquerade` gives it the gateway's address.

One table of our own, replaced as a whole in one transaction; a rule's comment is the
listen it serves, which is how the rules are read back.
"""

import json
from collections.abc import Collection

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
    """The listens of `nft -j list table`. A rule that somebody else put there is none of
    ours: it goes when the table is next written. Raises ValueError."""
    try:
        rules = [entry["rule"] for entry in json.loads(listing)["nftables"] if "rule" in entry]
        comments = [rule["comment"] for rule in rules if "comment" in rule]
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a list of rules: {error!r}") from None
    return frozenset(one for one in map(_frontend, comments) if one is not None)


def _frontend(comment: str) -> Frontend | None:
    try:
        return parse_frontend(comment)
    except ValueError:
        return None
