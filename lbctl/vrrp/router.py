"""One virtual router: its states, timers and decisions (RFC 9568 section 6), without
sockets or clock.

               +---------------+
    +--------->|  Initialize   |<-------------+        Fault is Initialize with a reason:
    |          +---------------+              |        a tracker, the interface, the sync
    |               |    | owner (priority 255)        group forbid to take part.
    |      otherwise|    +---------------+    |
    v               v                    v    v        Beyond the RFC an Active that goes
    +---------------+                  +------------+  is `leaving` for a while: it has
    |    Backup     |<---------------->|   Active   |  sent priority 0 and still answers,
    +---------------+                  +------------+  until its successor's first advert.

Whoever calls passes the time (seconds, of a clock that never steps) and carries out the
effects in their order, at once. `deadline` is when `tick` wants to be called next.
"""

from collections import Counter
from dataclasses import dataclass, replace

from lbctl.messages import Role
from lbctl.model import Address, ChecksumForm, Mac, Preempt, Router
from lbctl.vrrp.effects import Announce, Change, Drop, Effect, Notice, Send, Take, Tell
from lbctl.vrrp.packet import Advert
from lbctl.vrrp.receive import Count, Heard

ANNOUNCE_AGAIN = 5.0  # after a promotion: the first announcement may have been lost
ANNOUNCE_HEALED = 1.0  # after another active was heard: its own may have come later
LEASE = 3  # intervals without an advert of ours before a peer may act (6.1)
PATIENCE = 4  # intervals until the slowest peer that lost every advert acts
LEAST_PATIENCE = 3.0  # seconds: a successor may have to wait for its kernel's network lock
GROUP = "group"  # the obstacle that is another member's


@dataclass(frozen=True, slots=True)
class Peer:
    """The sender of the last advert that passed."""

    address: Address
    priority: int
    interval: float
    at: float


@dataclass(frozen=True, slots=True)
class Leaving:
    """On the way out, still answering. role: what comes after. by: at the latest then.
    comeback: without a successor it stays rather than leave nobody."""

    role: Role
    reason: str
    by: float
    comeback: bool = False


class VirtualRouter:
    """own: the interface's primary address (IPv6: link-local); without one it is at fault."""

    def __init__(self, settings: Router, own: Address | None) -> None:
        self.settings = settings
        self.own = own
        self.role = Role.INITIALIZE
        self.reason = "not started"
        self.since = 0.0
        self.priority = settings.priority  # with what the trackers take and give
        self.peer: Peer | None = None
        self.leaving: Leaving | None = None
        self.expired = False  # in a sync group: the Active is silent, the group decides
        self.counts: Counter[Count] = Counter()
        self._obstacles: dict[str, str] = {}
        self._stopped: str | None = "not started"
        self._standby: str | None = None
        self._yielded = False  # failover was ordered: leave it to the peer while it lives
        self._synced = False
        self._hold_until = 0.0
        self._preempt_from = 0.0
        self._active_interval = settings.interval
        self._down_at: float | None = None
        self._advert_at: float | None = None
        self._announce_at: float | None = None
        self._announced_at = 0.0
        self._sent_at = 0.0
        self._sent_before = 0.0
        self._prompted_at = float("-inf")
        self._contest_at: float | None = None
        self._form = ChecksumForm.PSEUDO  # what `auto` sends until a peer was heard
        self._odd_peer: tuple[Address, str] | None = None

    # --- what it is ---------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        """When `tick` wants to be called; None: not before something else happens."""
        if self.role is Role.ACTIVE:
            leave = self.leaving.by if self.leaving else None
            heal = self._heals_at()
            moments = [self._advert_at, self._announce_at, leave, heal]
        elif self.role is Role.BACKUP:
            moments = [self._down_at]
        else:
            waits = self._bar(self._hold_until) is None
            moments = [self._hold_until if waits else None]
        return min((moment for moment in moments if moment is not None), default=None)

    @property
    def done(self) -> bool:
        """Stopped, and its addresses are given up."""
        return self.stopped and self.role is not Role.ACTIVE

    @property
    def stopped(self) -> bool:
        """It ends, or has not begun."""
        return self._stopped is not None

    @property
    def own_fault(self) -> str:
        """What is wrong here, and not in the sync group; "" if nothing."""
        return "; ".join(reason for key, reason in self._obstacles.items() if key != GROUP)

    def follows(self, now: float) -> bool:
        """Backup to an Active that is alive."""
        if self.role is not Role.BACKUP or self.peer is None or self.expired:
            return False
        return self.peer.priority > 0 and now - self.peer.at < self.down_interval

    @property
    def skew(self) -> float:
        """Skew_Time (6.1); RFC 3768 has it in fractions of a second, whatever the interval."""
        unit = 1.0 if self.settings.version == 2 else self._active_interval
        return (256 - self.priority) * unit / 256

    @property
    def down_interval(self) -> float:
        """Active_Down_Interval (6.1)."""
        return 3 * self._active_interval + self.skew

    @property
    def form(self) -> ChecksumForm:
        """The checksum form that it sends."""
        if self.settings.checksum is ChecksumForm.AUTO:
            return self._form
        return self.settings.checksum

    @property
    def contested(self) -> bool:
        """Another router claims to be active too, and ranks below."""
        return self._contest_at is not None

    @property
    def yielded(self) -> bool:
        return self._yielded

    @property
    def synced(self) -> bool:
        return self._synced

    @property
    def preempt_from(self) -> float:
        """When `preempt_delay` is over."""
        return self._preempt_from

    def preempts(self, now: float) -> bool:
        """Whether an Active of lower priority is taken over from."""
        if self._yielded:
            return False
        if self.settings.owner:
            return True  # whatever Preempt_Mode says (6.1)
        match self.settings.preempt:
            case Preempt.NEVER:
                return False
            case Preempt.ALWAYS:
                return now >= self._preempt_from
            case Preempt.WHEN_SYNCED:
                return self._synced and now >= self._preempt_from

    # --- inputs -------------------------------------------------------------------------

    def start(self, now: float) -> list[Effect]:
        """The Startup event (6.4.1), `hold` seconds later if that is configured."""
        self._stopped = None
        self._hold_until = now + self.settings.hold
        return self._settle(now)

    def stop(self, reason: str, now: float, *, at_once: bool = False) -> list[Effect]:
        """The Shutdown event; over when `done`. at_once: whether a successor is heard or not."""
        self._stopped = reason
        return self._settle(now, at_once=at_once)

    def tick(self, now: float) -> list[Effect]:
        """What the time demands."""
        if self.role is Role.ACTIVE:
            return self._tick_active(now)
        if self.role is Role.BACKUP:
            if self._down_at is None or now < self._down_at:
                return []
            self._down_at = None
            if self.settings.group:
                self.expired = True
                return []
            return self.take_over(now)
        return self._settle(now)

    def receive(self, heard: Heard, now: float) -> list[Effect]:
        """An advert that passed `receive.examine`."""
        advert = heard.advert
        if advert.priority == 0:
            self.counts[Count.RECEIVED_ZERO] += 1
        told = self._observe(heard)
        self.peer = Peer(heard.source, advert.priority, advert.interval, now)
        if self.role is Role.ACTIVE:
            return [*told, *self._receive_active(heard, now)]
        if self.role is Role.BACKUP:
            return [*told, *self._receive_backup(advert, now)]
        return told

    def sent(self, at: float | None) -> None:
        """The advert of the last `Send` left, at `at`; None: it could not be sent, and the
        peers go on waiting for it as this router does for its own lateness."""
        self._sent_at = self._sent_before if at is None else at
        if at is None:
            self.counts[Count.SEND_ERRORS] += 1

    def locate(self, own: Address | None, reason: str, now: float) -> list[Effect]:
        """The interface has the address `own` now; None: it cannot be used, says `reason`."""
        self.own = own
        return self.hinder("interface", reason if own is None else None, now, at_once=True)

    def hinder(
        self, key: str, reason: str | None, now: float, *, at_once: bool = False
    ) -> list[Effect]:
        """Something forbids to take part (Fault), or no longer does (None). at_once: there
        is no point in answering until a successor is heard."""
        if reason is None:
            self._obstacles.pop(key, None)
        else:
            self._obstacles[key] = reason
        return self._settle(now, at_once=at_once)

    def weigh(self, priority: int) -> list[Effect]:
        """The priority that the trackers leave. The next advert carries it."""
        if priority == self.priority:
            return []
        text = f"priority {priority}, was {self.priority}"
        self.priority = priority
        return [Tell(Notice.PRIORITY, text)]

    def sync(self, holds: bool) -> None:
        """Whether a full copy of the Active's flows is held (`preempt: when-synced`)."""
        self._synced = holds

    def fail_over(self, reason: str, now: float) -> list[Effect]:
        """Leave it to the peer, and do not take it back while the peer lives. Without a
        successor this router goes on."""
        if self.role is not Role.ACTIVE or self.leaving:
            return []
        self._yielded = True
        return self._leave(Leaving(Role.BACKUP, reason, self._patience(now), True), now)

    def stand_by(self, reason: str, now: float) -> list[Effect]:
        """Take no part until `resume`, whatever happens to the peer."""
        self._standby = reason
        return self._settle(now)

    def resume(self, now: float) -> list[Effect]:
        """Lift what was ordered."""
        self._standby, self._yielded = None, False
        return self._settle(now)

    def give_way(self, reason: str, now: float) -> list[Effect]:
        """The sync group goes to Backup, and this router with it."""
        if self.role is not Role.ACTIVE or self.leaving:
            return []
        return self._leave(Leaving(Role.BACKUP, reason, self._patience(now)), now)

    def adjust(self, settings: Router, now: float) -> list[Effect]:
        """Other settings for the same virtual router on the same interface: it keeps its
        role, its peer and its counters."""
        old, self.settings = self.settings, settings
        self.priority = min(255, max(1, self.priority + settings.priority - old.priority))
        if self.role is not Role.ACTIVE:
            return self._settle(now)
        effects: list[Effect] = []
        if settings.addresses != old.addresses:
            effects += [Take(), self._announce(now)]
        if settings != old and not self.leaving:
            effects += self._send(self.priority, now)
        return effects

    def take_over(self, now: float) -> list[Effect]:
        """The Active has been silent long enough."""
        return self.promote(self._silence(now), now)

    def promote(self, reason: str, now: float) -> list[Effect]:
        """To Active. The addresses come before the advert: whoever hands over stops
        answering when it hears it (the RFC has the advert first, 6.4.2)."""
        self.counts[Count.ACTIVE_TRANSITIONS] += 1
        self._yielded = self.expired = False
        self._down_at = self._contest_at = None
        self.leaving = None
        announce = self._announce(now)
        self._announce_at = now + ANNOUNCE_AGAIN
        self._sent_at = now
        self._become(Role.ACTIVE, reason, now)
        effects: list[Effect] = [Take(), *self._send(self.priority, now), announce]
        return [*effects, Change(Role.ACTIVE, reason)]

    # --- Active -------------------------------------------------------------------------

    def _tick_active(self, now: float) -> list[Effect]:
        late = now - self._sent_at
        if late > LEASE * self.settings.interval:
            return self._step_down_late(late, now)
        if self.leaving and now >= self.leaving.by:
            if self.leaving.comeback:
                return self._stay(now)
            return self._fall(self.leaving.role, self.leaving.reason, now)
        effects: list[Effect] = []
        if self._advert_at is not None and now >= self._advert_at:
            effects += self._send(0 if self.leaving else self.priority, now)
        if self._announce_at is not None and now >= self._announce_at:
            effects.append(self._announce(now))
        heals = self._heals_at()
        if heals is not None and now >= heals:
            self._contest_at = None
            effects.append(Tell(Notice.HEALED, "the other active is silent now"))
        return effects

    def _receive_active(self, heard: Heard, now: float) -> list[Effect]:
        advert = heard.advert
        if self.leaving:
            return [] if advert.priority == 0 else self._succeed(self.leaving, heard, now)
        if advert.priority == 0:
            return self._remind(now)  # it was active too: hosts may know its MAC
        if self._outranked(heard):
            self._adopt(advert, now)
            reason = f"{heard.source} is active with priority {advert.priority}"
            return [*self._last_word(now), *self._fall(Role.BACKUP, reason, now)]
        return self._assert(heard, now)

    def _last_word(self, now: float) -> list[Effect]:
        """Who goes on may not have heard us, and hosts may have learnt our MAC: one more
        advert makes it announce its own. A virtual MAC needs none of that, its adverts teach
        the bridges; ours would teach them wrong."""
        return self._send(self.priority, now) if self.settings.mac is Mac.OWN else []

    def _outranked(self, heard: Heard) -> bool:
        """Higher priority, or the same and the greater address (6.4.3)."""
        priority = heard.advert.priority
        if priority != self.priority:
            return priority > self.priority
        return self.own is not None and int(heard.source) > int(self.own)

    def _assert(self, heard: Heard, now: float) -> list[Effect]:
        """A lower-priority router is active too: advertise at once, which also teaches the
        bridges again (6.4.3), and announce again; at most twice an interval, so that a
        flood of such adverts does not make one of ours."""
        effects: list[Effect] = []
        if now - self.since >= self.settings.interval:  # else it has not heard us yet
            self.counts[Count.TWO_ACTIVES] += 1
            if self._contest_at is None:
                effects.append(Tell(Notice.TWO_ACTIVES, self._contest(heard)))
            self._contest_at = now
        return effects + self._remind(now)

    def _remind(self, now: float) -> list[Effect]:
        """Of who is active, as often as a prompt advert may be sent, and once more later."""
        effects = self._prompt(now)
        if effects:
            effects.append(self._announce(now))
        healed = now + max(ANNOUNCE_HEALED, self.settings.interval)
        self._announce_at = min(healed, self._announce_at or healed)
        return effects

    def _prompt(self, now: float) -> list[Effect]:
        """An advert out of turn, at most twice an interval. However recent our last regular
        one is: the bridges have just learnt the virtual MAC from somebody else."""
        if now - self._prompted_at < self.settings.interval / 2:
            return []
        self._prompted_at = now
        return self._send(self.priority, now)

    def _contest(self, heard: Heard) -> str:
        text = f"{heard.source} is active too, with priority {heard.advert.priority}"
        if self._other_form(heard):
            return f"{text}; it uses the other checksum form and may not hear us: checksum: auto"
        return f"{text}, and does not give way to {self.priority}"

    def _other_form(self, heard: Heard) -> bool:
        """Version 2 and IPv6 know one form only."""
        choice = self.settings.version == 3 and heard.source.version == 4
        return choice and heard.form is not self.form

    def _step_down_late(self, late: float, now: float) -> list[Effect]:
        """Peers have had reason to take over: hear first who is active now."""
        self.counts[Count.LATE] += 1
        text = f"our advert is {late - self.settings.interval:.3f} s late"
        self._active_interval = self.settings.interval
        role, reason = self._bar(now) or (Role.BACKUP, text)
        return [Tell(Notice.LATE, text), *self._fall(role, reason, now)]

    def _send(self, priority: int, now: float) -> list[Effect]:
        """An advert now; the next one an interval after the moment this one was due."""
        interval = self.settings.interval
        due = self._advert_at if self._advert_at is not None else now
        self._advert_at = due + interval if now - interval < due <= now else now + interval
        self._sent_before, self._sent_at = self._sent_at, now
        self.counts[Count.SENT] += 1
        if priority == 0:
            self.counts[Count.SENT_ZERO] += 1
        settings = self.settings
        advert = Advert(settings.vrid, priority, interval, settings.addresses, settings.version)
        return [Send(advert, self.form, LEASE * interval)]

    def _announce(self, now: float) -> Effect:
        self._announced_at = now
        self._announce_at = now + self.settings.refresh if self.settings.refresh else None
        return Announce()

    def _heals_at(self) -> float | None:
        return None if self._contest_at is None else self._contest_at + 3 * self.settings.interval

    # --- leaving ------------------------------------------------------------------------

    def _patience(self, now: float) -> float:
        return now + max(PATIENCE * self.settings.interval, LEAST_PATIENCE)

    def _leave(self, leaving: Leaving, now: float) -> list[Effect]:
        """Send priority 0 and go on answering until the successor's first advert."""
        self.leaving = leaving
        return [Tell(Notice.HAND_OVER, leaving.reason), *self._send(0, now)]

    def _succeed(self, leaving: Leaving, heard: Heard, now: float) -> list[Effect]:
        """The successor answers."""
        self._adopt(heard.advert, now)
        return self._fall(leaving.role, f"{leaving.reason}; {heard.source} took over", now)

    def _stay(self, now: float) -> list[Effect]:
        """Nobody came: go on."""
        self.leaving, self._yielded = None, False
        text = "no successor was heard: this gateway goes on"
        return [Tell(Notice.HAND_OVER, text), *self._send(self.priority, now)]

    # --- Backup -------------------------------------------------------------------------

    def _receive_backup(self, advert: Advert, now: float) -> list[Effect]:
        if advert.priority == 0:  # the Active leaves: who is first needs no full interval
            first = now + self.skew
            self._down_at = min(first, self._down_at or first)  # a repeat does not delay it
        elif advert.priority >= self.priority or not self.preempts(now):
            self.expired = False
            self._adopt(advert, now)
        return []  # otherwise it is discarded, and our timer runs out (6.4.2)

    def _adopt(self, advert: Advert, now: float) -> None:
        """Wait for this Active at its own interval (6.4.2)."""
        self._active_interval = advert.interval
        self._down_at = now + self.down_interval

    def _silence(self, now: float) -> str:
        if self.peer is None:
            return f"no advert was heard for {now - self.since:.3g} s"
        if self.peer.priority == 0:
            return f"{self.peer.address} handed over"
        if now - self.peer.at < self.down_interval / 2:
            ranks = f"priority {self.priority} to {self.peer.priority}"
            return f"preempted {self.peer.address}: {ranks}"
        return f"no advert from {self.peer.address} for {now - self.peer.at:.3g} s"

    # --- between the states -------------------------------------------------------------

    def _bar(self, now: float) -> tuple[Role, str] | None:
        """What keeps this router out of the election, if anything."""
        if self._stopped is not None:
            return Role.INITIALIZE, self._stopped
        if self._standby is not None:
            return Role.INITIALIZE, self._standby
        if self._obstacles:
            return Role.FAULT, "; ".join(self._obstacles.values())
        if now < self._hold_until:
            return Role.INITIALIZE, f"holds for {self.settings.hold:g} s after its start"
        return None

    def _settle(self, now: float, *, at_once: bool = False) -> list[Effect]:
        """Follow what forbids, or allows, to take part."""
        bar = self._bar(now)
        if bar is None:
            return self._unbarred(now)
        role, reason = bar
        if self.role is Role.ACTIVE:
            if at_once:
                return self._fall(role, reason, now)
            if self.leaving is None:
                return self._leave(Leaving(role, reason, self._patience(now)), now)
            self.leaving = replace(self.leaving, role=role, reason=reason, comeback=False)
            return []
        self.reason = reason
        if self.role is role:
            return []
        return self._fall(role, reason, now)

    def _unbarred(self, now: float) -> list[Effect]:
        if self.role is Role.ACTIVE and self.leaving and self.leaving.role is not Role.BACKUP:
            self.leaving = None  # the fault is mended, and nobody had taken over yet
            return self._send(self.priority, now)
        if self.role in (Role.INITIALIZE, Role.FAULT):
            if self.settings.owner and not self._yielded and not self.settings.group:
                return self.promote("owns the addresses", now)
            self._active_interval = self.settings.interval
            self._down_at = now + self.down_interval
            return self._fall(Role.BACKUP, "waits for an advert", now)
        return []

    def _fall(self, role: Role, reason: str, now: float) -> list[Effect]:
        """To a role that does not answer."""
        answered = self.role is Role.ACTIVE
        self._become(role, reason, now)
        self._advert_at = self._announce_at = self._contest_at = None
        self.leaving = None
        self.expired = False
        self._synced = self._synced and not answered  # its copy was of what the peer had then
        if role is Role.BACKUP:
            self._preempt_from = now + self.settings.preempt_delay
            if self._down_at is None:
                self._down_at = now + self.down_interval
        else:
            self._down_at = None
        return [*([Drop()] if answered else []), Change(role, reason)]

    def _become(self, role: Role, reason: str, now: float) -> None:
        self.role, self.reason, self.since = role, reason, now

    def _observe(self, heard: Heard) -> list[Effect]:
        """What an advert tells of its sender beside its claim; told once for each."""
        self._form = heard.form
        odd: tuple[Address, str] | None = None
        if self._other_form(heard):
            odd = heard.source, "form"
        if not heard.listed:
            self.counts[Count.ADDRESS_ERRORS] += 1
            odd = heard.source, "addresses"
        if odd is None or odd == self._odd_peer:
            return []
        self._odd_peer = odd
        if odd[1] == "form":
            text = f"{heard.source} sends the {heard.form} checksum form, we {self.form}"
            return [Tell(Notice.CHECKSUM, f"{text}: it may not hear us (set checksum: auto)")]
        text = f"{heard.source} advertises other addresses than those configured here"
        return [Tell(Notice.ADDRESSES, text)]
