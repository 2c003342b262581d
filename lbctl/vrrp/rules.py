"""`accept: false` as nftables: packets to the virtual addresses reach no local program.

After IPVS's hooks (priority 98 and 99), which take what they balance; neighbour discovery
always passes (RFC 9568, 6.1).
"""

from collections.abc import Iterable

from lbctl.model import Router

TABLE = "inet lbctl-vrrp"


def accept_rules(routers: Iterable[Router]) -> str:
    """A text for `nft -f -` that makes the table so, whatever it was; without addresses to
    drop: one that removes it."""
    # Adding first makes the removal succeed in any case.
    gone = f"table {TABLE} {{}}\ndelete table {TABLE}\n"
    deaf = [router for router in routers if not router.accept and not router.owner]
    addresses = [address for router in deaf for address in router.addresses]
    if not addresses:
        return gone
    lines = []
    for version, match in ((4, "ip"), (6, "ip6")):
        some = ", ".join(str(address) for address in addresses if address.version == version)
        if some:
            lines.append(f"    {match} daddr {{ {some} }} drop")
    pass_nd = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"
    chain = "    type filter hook input priority 200; policy accept;"
    body = "\n".join([chain, f"    {pass_nd}", *lines])
    return f"{gone}table {TABLE} {{\n  chain input {{\n{body}\n  }}\n}}\n"
