"""Why a virtual router is what it is, in words an operator can act on."""

from lbctl.messages import Role
from lbctl.model import Preempt, Router, Tracker
from lbctl.vrrp.node import Node
from lbctl.vrrp.router import VirtualRouter


def explain(node: Node, name: str, now: float) -> list[str]:
    """The sentences, most telling first."""
    router = node.routers[name]
    lines = [_role(router, now)]
    if router.role is Role.BACKUP:
        lines += _backup(router, now)
    if router.role is Role.ACTIVE:
        lines.append(_company(router, now))
    if (text := _priority(node, router.settings, router.priority)) is not None:
        lines.append(text)
    lines += [_tracked(node, tracker) for tracker in router.settings.trackers]
    if router.settings.group:
        others = [n for n in node.companions(name) if n != name]
        lines.append(f"sync group {router.settings.group} with {', '.join(others) or 'no other'}")
    return lines


def _role(router: VirtualRouter, now: float) -> str:
    since = f"for {_span(now - router.since)}"
    if router.leaving is not None:
        return f"active, handing over: {router.leaving.reason}; answers until a successor is heard"
    return f"{router.role} {since}: {router.reason}"


def _company(router: VirtualRouter, now: float) -> str:
    """What an Active knows of others; a Backup is silent."""
    peer = router.peer
    if peer is None:
        return "no other router was ever heard; one that is Backup is silent"
    if router.contested:
        return (
            f"TWO ACTIVES: {peer.address} is active too, with priority {peer.priority}: it does "
            "not hear this gateway, or does not understand its checksum form"
        )
    return f"last heard of another: {peer.address}, {_span(now - peer.at)} ago; a Backup is silent"


def _backup(router: VirtualRouter, now: float) -> list[str]:
    peer = router.peer
    if router.expired:
        return ["its Active is silent; waits for the other members of its sync group"]
    if peer is None:
        return []
    heard = f"{peer.address} has priority {peer.priority}, ours is {router.priority}"
    lines = [f"{heard}; last advert {_span(now - peer.at)} ago"]
    if router.deadline is not None:
        lines.append(f"takes over in {_span(router.deadline - now)} if nothing is heard")
    if 0 < peer.priority < router.priority and not router.preempts(now):
        lines.append(f"does not preempt {peer.address}: {_reticence(router, now)}")
    return lines


def _reticence(router: VirtualRouter, now: float) -> str:
    if router.yielded:
        return "failover was ordered (lbctl ha resume lifts it)"
    if router.settings.preempt is Preempt.NEVER:
        return "preempt is never"
    if router.settings.preempt is Preempt.WHEN_SYNCED and not router.synced:
        return "preempt is when-synced, and the copy of its flows is not complete"
    return f"preempt_delay ends in {_span(router.preempt_from - now)}"


def _priority(node: Node, settings: Router, priority: int) -> str | None:
    if settings.owner:
        return "owns the addresses (priority 255)"
    if priority == settings.priority:
        return None
    parts = [f"priority {priority}: configured {settings.priority}"]
    for tracker in settings.trackers:
        fact = node.fact(tracker)
        holds = fact is None or fact.holds
        if tracker.weight is not None and holds == (tracker.weight > 0):
            state = "holds" if holds else "fails"
            parts.append(f"{tracker.weight:+d} as {tracker} {state}")
    return ", ".join(parts)


def _tracked(node: Node, tracker: Tracker) -> str:
    fact = node.fact(tracker)
    if fact is None:
        return f"{tracker}: not known yet, counts as well"
    if fact.holds:
        return f"{tracker}: well"
    return f"{tracker}: fails ({fact.evidence or 'no evidence'})"


def _span(seconds: float) -> str:
    if seconds < 10:
        return f"{max(0.0, seconds):.2g} s"
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"
