"""The parts of a running daemon, as those who answer for it see them."""

import os
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from lbctl import __version__
from lbctl.daemon.acts import Act, Subject
from lbctl.daemon.clock import Clock
from lbctl.daemon.control import Control, Outcome
from lbctl.daemon.crew import Crew
from lbctl.daemon.hookrunner import HookRunner
from lbctl.daemon.journal import Journal
from lbctl.daemon.loop import ReconcileLoop
from lbctl.daemon.names import Known
from lbctl.daemon.overrides import Override
from lbctl.daemon.plane import PlaneThread
from lbctl.daemon.reader import ConfigReader
from lbctl.daemon.reconcile import Reconciler
from lbctl.daemon.remote import RemoteApi
from lbctl.daemon.replication import Replicator
from lbctl.daemon.routers import RouterLink
from lbctl.daemon.sampler import Sampler
from lbctl.daemon.shapes import (
    DatapathView,
    HookView,
    OverrideView,
    ProbeView,
    Snapshot,
    StatusView,
    StuckView,
    WorkerView,
)
from lbctl.daemon.site import site_report
from lbctl.daemon.views import Show
from lbctl.dataplane.port import AddService, DataPlane, Suspects
from lbctl.errors import LbctlError
from lbctl.gslb.reports import SiteReport
from lbctl.messages import Verdict
from lbctl.model import Endpoint, Frontend, Listen, ServerName
from lbctl.world import Target, World, agent_of, owners, target_of


@dataclass(frozen=True)
class Parts:
    """file: the daemon's own configuration file. started: on the clock that never steps."""

    file: Path
    clock: Clock
    journal: Journal
    read: ConfigReader
    reconciler: Reconciler
    control: Control
    plane: PlaneThread
    sampler: Sampler
    loop: ReconcileLoop
    crew: Crew
    hooks: HookRunner
    routers: RouterLink
    remote: RemoteApi
    replicator: Replicator
    started: float

    def known(self) -> Known:
        """Every server that can be asked about: those that leave, too."""
        return {
            service: {one.name.server for one in decisions}
            for service, decisions in self.reconciler.decisions.items()
        }

    def show(self) -> Show:
        return Show(self.control.world, self.reconciler, self.sampler.latest, self.clock)

    def overrides(self) -> Iterator[OverrideView]:
        return (self._override(one) for one in self.control.intent.overrides)

    def refused(self, outcome: Outcome, before: Mapping[Subject, Act]) -> tuple[str, ...]:
        """What the data path did not take of a change, and what troubles it as a whole.

        before: what it refused when the change came; that is not the change's.
        """
        if not outcome.changed:
            return ()
        texts = [text for text in (self.loop.trouble, self.control.save_error) if text]
        stuck = self.reconciler.stuck
        owner = owners(self.control.world.config.services) if stuck else {}
        ours = set(outcome.services)
        for subject, one in stuck.items():
            # A listen that is refused takes along whatever is done behind it.
            blocks = isinstance(one.act, AddService) and outcome.operations
            if (before.get(subject) != one.act or blocks) and _is_about(subject, ours, owner):
                texts.append(one.error)
        return tuple(dict.fromkeys(texts))

    async def probe(self, name: ServerName) -> list[ProbeView]:
        """Probe what is checked for a server, and its agent, now. Raises LbctlError."""
        service = self.control.world.config.services[name.service]
        server = service.servers[name.server]
        asked = [
            ("check", target_of(service, server), service.check),
            ("agent", agent_of(service, server), service.agent),
        ]
        found = [(what, t, check) for what, t, check in asked if t is not None and check]
        if not found:
            hint = "`lbctl set` gives its service a check"
            raise LbctlError(f"{name}: nothing is checked for it", hint)
        # The worker may be in the middle of the probe before this one.
        return [
            _probe_view(what, t, await self.crew.probe_now(t, 2 * check.timing.timeout + 1.0))
            for what, t, check in found
        ]

    async def check_suspects(self) -> None:
        """Run the checks of the servers whose packets speak against them, at once."""
        for target in suspected(self.control.world, await self.plane.ask(_suspects)):
            self.crew.hurry(target)

    def hook_runs(self) -> Iterator[HookView]:
        """The last runs of hooks, the newest first."""
        for one in reversed(self.hooks.ledger.runs):
            yield HookView(
                server=str(one.key.name),
                hook=str(one.key.trigger),
                at=self.clock.to_wall(one.at),
                took=one.took,
                passed=one.passed,
                result=one.result,
                output=one.output,
            )

    def _override(self, one: Override) -> OverrideView:
        return OverrideView(
            id=one.id,
            change=str(one),
            path=one.path,
            value=one.value,
            by=one.by,
            reason=one.reason,
            since=self.clock.to_wall(one.since),
            until=None if one.until is None else self.clock.to_wall(one.until),
            stale=one in self.control.stale,
        )

    def status(self) -> StatusView:
        control, workers = self.control, list(self._workers())
        config = control.world.config
        return StatusView(
            version=__version__,
            pid=os.getpid(),
            uptime=self.clock.now() - self.started,
            datapath=DatapathView(self.plane.name, self.plane.why, self._trouble()),
            file=str(self.file),
            generation=control.intent.generation,
            origin=control.intent.origin,
            services=len(config.services),
            servers=sum(len(service.servers) for service in config.services.values()),
            overrides=len(control.intent.overrides),
            stale=tuple(one.id for one in control.stale),
            warnings=(*control.warnings, *self._not_listening()),
            refused=tuple(self._stuck()),
            state=control.save_error or "saved",
            passes=self.reconciler.passes,
            operations=self.loop.operations,
            writes=dict(self.sampler.latest.writes),
            worker=_together(workers),
            workers=tuple(workers),
        )

    def _workers(self) -> Iterator[WorkerView]:
        """Those that run, and the first in any case."""
        for number, one in enumerate(self.crew.keepers):
            if number == 0 or one.pid is not None:
                yield WorkerView(
                    pid=one.pid,
                    checks=one.checks,
                    probes=one.probes,
                    late_p99=one.pulse.late_p99 if one.pulse is not None else None,
                    through=one.passage is not None,
                )

    def _not_listening(self) -> Iterator[str]:
        if self.remote.trouble:
            yield f"gateway.api: {self.remote.trouble}"

    def _trouble(self) -> str:
        return self.loop.trouble or self.sampler.error

    def _stuck(self) -> Iterator[StuckView]:
        for one in self.reconciler.stuck.values():
            yield StuckView(
                operation=str(one.act),
                error=one.error,
                tries=one.tries,
                since=self.clock.to_wall(one.since),
                retry_in=max(0.0, one.retry - self.clock.now()),
            )

    def site(self) -> SiteReport:
        """How this gateway's site does."""
        show = self.show()
        return site_report(os.uname().nodename, show.services(), show.agents())

    def snapshot(self) -> Snapshot:
        """What a scrape of the metrics shows."""
        show = self.show()
        return Snapshot(
            self.status(),
            tuple(show.services()),
            tuple(show.servers()),
            show.stats(self.sampler.at),
            {
                (str(key.name), str(key.trigger), "done" if passed else "failed"): number
                for (key, passed), number in self.hooks.ledger.counts.items()
            },
            self.replicator.view(),
        )


def _suspects(plane: DataPlane) -> Set[tuple[Frontend, Endpoint]]:
    return plane.suspects() if isinstance(plane, Suspects) else frozenset()


def suspected(world: World, places: Set[tuple[Frontend, Endpoint]]) -> set[Target]:
    """What is checked of the servers at `places`."""
    found = set[Target]()
    services = world.config.services
    whose = owners(services) if places else {}
    for frontend, endpoint in places:
        if (service := services.get(whose.get(frontend, ""))) is None:
            continue
        for server in service.servers.values():
            if server.endpoint(frontend) == endpoint and (t := target_of(service, server)):
                found.add(t)
    return found


def _together(workers: Sequence[WorkerView]) -> WorkerView:
    late = [one.late_p99 for one in workers if one.late_p99 is not None]
    return WorkerView(
        pid=workers[0].pid,
        checks=sum(one.checks for one in workers),
        probes=sum(one.probes for one in workers),
        late_p99=max(late, default=None),
        through=any(one.through for one in workers),
    )


def _is_about(subject: Subject, services: Set[str], owner: Mapping[Frontend, str]) -> bool:
    """Whether it is of one of `services`, or of none that is left."""
    names = {
        name
        for f, name in owner.items()
        if subject.what in (f, f.address if isinstance(f, Listen) else None)
    }
    return not names or not names.isdisjoint(services)


def _probe_view(what: str, target: Target, verdict: Verdict) -> ProbeView:
    return ProbeView(
        asked=what,
        target=str(target),
        health=str(verdict.health),
        evidence=verdict.evidence,
        took=verdict.took,
        steps=verdict.steps,
    )
