"""The small pure parts: overrides, comparison, names, assignment, events, requests."""

import asyncio
import dataclasses
import os
import typing
from functools import partial
from ipaddress import ip_address
from itertools import pairwise
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
from aiohttp import web

from lbctl.daemon.assignment import Assignment, ordinary, through_servers, wanted_checks
from lbctl.daemon.compare import changes
from lbctl.daemon.control import Manner
from lbctl.daemon.failures import errors
from lbctl.daemon.names import BadName, configured, server_named, servers_named
from lbctl.daemon.overrides import Override, with_override, without_path
from lbctl.daemon.parts import suspected
from lbctl.daemon.requests import BadRequest, OrderRequest, OverrideRequest, PlainRequest, decode
from lbctl.daemon.run import HEARING, hearing
from lbctl.daemon.views import state_word
from lbctl.desired import Rule, decide
from lbctl.errors import NotFound
from lbctl.events import AnyEvent, ConfigRefused, Event, HealthChanged, History, Ordered, render
from lbctl.health.judge import Health
from lbctl.model import (
    Check,
    Config,
    Drain,
    Endpoint,
    Forwarding,
    Gateway,
    HttpProbe,
    LastResort,
    Listen,
    Mode,
    Router,
    ServerName,
    TcpProbe,
    Timing,
)
from lbctl.world import Admin, Order, Sighting, World, targets

from .stand import config, service

# --- the kernel's news ------------------------------------------------------------------


class Enough(Exception):
    """Has been heard."""


def test_news_that_do_not_end_are_heard_together():
    heard = []

    async def hear():
        heard.append(asyncio.get_running_loop().time())
        if len(heard) == 4:
            raise Enough

    readable, writable = os.pipe()
    os.write(writable, b"x")  # and nobody reads it
    with pytest.raises(Enough):
        asyncio.run(hearing(readable, hear))
    os.close(readable)
    os.close(writable)
    assert all(after - before > 0.9 * HEARING for before, after in pairwise(heard))


# --- overrides --------------------------------------------------------------------------


def override(number: int, path: str, value: object = 1) -> Override:
    return Override(number, tuple(path.split(".")), value)


def test_an_override_replaces_those_at_and_below_its_path() -> None:
    old = [override(1, "services.web.servers.a.weight"), override(2, "services.web.scheduler")]
    kept = with_override(old, override(3, "services.web.servers.a"))
    assert [one.id for one in kept] == [2, 3]
    above = with_override(old, override(4, "services.web.servers.a.weight"))
    assert [one.id for one in above] == [2, 4]


def test_a_path_is_not_a_prefix_of_a_longer_name() -> None:
    old = [override(1, "services.web2"), override(2, "services.web.scheduler")]
    assert [one.id for one in without_path(old, ("services", "web"))] == [1]


# --- comparison -------------------------------------------------------------------------


def test_a_difference_names_the_field_and_both_values() -> None:
    before, after = config(web=service(1, 2)), config(web=service(1, 3, scheduler="wrr"))
    assert list(changes(before, after)) == [
        "services.web.servers.app2: removed",
        "services.web.servers.app3: added",
        "services.web.scheduler: rr -> wrr",
    ]
    assert list(changes(before, before)) == []


def test_a_difference_inside_a_check_is_found() -> None:
    web = service(1)
    check = Check(HttpProbe("/a"), Timing(interval=5.0))
    one = config(web=dataclasses.replace(web, check=check))
    two = config(web=dataclasses.replace(web, check=Check(HttpProbe("/b"), Timing(interval=7.0))))
    assert list(changes(one, two)) == [
        "services.web.check.path: /a -> /b",
        "services.web.check.interval: 5s -> 7s",
    ]
    [gone] = changes(one, config(web=dataclasses.replace(web, check=None)))
    assert gone == "services.web.check: {type: http, path: /a, interval: 5s} -> none"


def test_a_difference_is_said_in_the_files_words() -> None:
    web = dataclasses.replace(service(1), check=Check(), drain=Drain())
    http = HttpProbe("/health", headers=(("X-A", "b"),))
    after = dataclasses.replace(
        web,
        check=Check(http, Timing(fall=5)),
        drain=Drain(timeout=90.0),
        last_resort=LastResort.ALL,
        servers={"app1": dataclasses.replace(web.servers["app1"], weight=7)},
    )
    there = [
        "services.web.servers.app1.weight: 1 -> 7",
        "services.web.check.type: tcp -> http",
        "services.web.check.path: / -> /health",
        "services.web.check.headers.X-A: the default -> b",
        "services.web.check.fall: 3 -> 5",
        "services.web.drain.timeout: 5m -> 90s",
        "services.web.last_resort: the default -> all",
    ]
    assert sorted(changes(config(web=web), config(web=after))) == sorted(there)
    back = sorted(changes(config(web=after), config(web=web)))
    swapped = (line.replace(": ", " -> ", 1).split(" -> ") for line in there)
    assert back == sorted(f"{path}: {new} -> {old}" for path, old, new in swapped)


def test_services_routers_and_the_gateway_are_compared_by_name() -> None:
    router = Router("front", "lan0", 7, (ip_address("192.0.2.10"),))
    before = config(web=service(1))
    after = Config(Gateway("lan1"), {"dns": service(2)}, {"front": router})
    assert list(changes(before, after)) == [
        "gateway.front: front -> lan1",
        "services.web: removed",
        "services.dns: added",
        "virtual_routers.front: added",
    ]
    other = dataclasses.replace(router, priority=200)
    [priority] = changes(after, dataclasses.replace(after, routers={"front": other}))
    assert priority.startswith("virtual_routers.front.priority: ")


# --- names ------------------------------------------------------------------------------

KNOWN = configured(config(web=service(1, 2), dns=service(3, listens="192.0.2.11:53/udp")))


def test_a_service_name_means_all_its_servers() -> None:
    assert servers_named(KNOWN, "web") == [ServerName("web", "app1"), ServerName("web", "app2")]
    assert servers_named(KNOWN, "web/app2") == [ServerName("web", "app2")]


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("wob/app1", NotFound, "did you mean 'web'"),
        ("web/ap2", NotFound, "did you mean 'app2'"),
        ("zzz/app1", NotFound, "there is: dns, web"),
        ("web/", BadName, "is not SERVICE/SERVER"),
        ("a/b/c", BadName, "is not SERVICE/SERVER"),
    ],
)
def test_a_wrong_name_is_answered_with_a_right_one(text: str, error: type, says: str) -> None:
    with pytest.raises(error, match=says):
        server_named(KNOWN, text)


# --- what the probe worker is told ------------------------------------------------------


def with_check(check: Check | None, *servers: int, listens: str = "192.0.2.10:80/tcp"):
    return dataclasses.replace(service(*servers, listens=listens), check=check)


def test_equal_targets_are_checked_once_at_the_most_impatient_pace() -> None:
    world = World(
        config(
            slow=with_check(Check(timing=Timing(interval=9.0)), 1, 2),
            fast=with_check(Check(timing=Timing(interval=1.0)), 1, listens="192.0.2.11:80/tcp"),
        )
    )
    wanted = wanted_checks(world, 0.0)
    assert [timing.interval for timing in wanted.values()] == [1.0, 9.0]


def test_a_target_is_unchecked_only_when_all_its_servers_are_in_maintenance() -> None:
    world = World(config(a=service(1), b=service(1, listens="192.0.2.11:80/tcp")))
    world.orders[ServerName("a", "app1")] = Order(Admin.MAINT, 0.0, 300.0)
    assert len(wanted_checks(world, 0.0)) == 1
    world.orders[ServerName("b", "app1")] = Order(Admin.MAINT, 0.0, 300.0, until=60.0)
    assert wanted_checks(world, 0.0) == {}
    assert len(wanted_checks(world, 60.0)) == 1


def test_a_worker_is_told_what_changed_and_a_new_one_everything() -> None:
    world, told = World(config(web=service(1, 2))), Assignment()
    whole = told.whole(world, 0.0)
    assert whole.whole
    assert [(job.id, job.endpoint) for job in whole.start] == [
        (1, "198.51.100.1:8080"),
        (2, "198.51.100.2:8080"),
    ]
    assert told.change(world, 0.0) is None
    world.reconfigure(config(web=service(2, 3)), 0.0)
    change = told.change(world, 0.0)
    assert change is not None
    assert ([job.id for job in change.start], change.cancel) == ([3], (1,))
    assert told.target(1) is None
    again = told.whole(world, 0.0)
    assert [job.id for job in again.start] == [2, 3]


def test_a_job_starts_from_the_verdict_that_is_known() -> None:
    world, told = World(config(web=service(1))), Assignment()
    [(_, target)] = targets(world.config)
    world.see(target, Sighting(Health.DOWN))
    [job] = told.whole(world, 0.0).start
    assert job.health is Health.DOWN


def test_another_pace_is_told_under_the_same_id() -> None:
    world, told = World(config(web=service(1))), Assignment()
    told.whole(world, 0.0)
    world.reconfigure(config(web=with_check(Check(timing=Timing(interval=7.0)), 1)), 0.0)
    change = told.change(world, 0.0)
    assert change is not None
    assert [(job.id, job.timing.interval) for job in change.start] == [(1, 7.0)]


def test_checks_through_servers_ask_for_the_vip_and_are_a_worker_s_of_their_own() -> None:
    check = Check(through=True)
    world = World(config(web=through(check, 1, 2), other=service(1, listens="192.0.2.11:80/tcp")))
    marks = {"198.51.100.1": 5, "198.51.100.2": 6}
    told = Assignment(through_servers, lambda via: marks[via.address])
    jobs = told.whole(world, 0.0).start
    assert [(job.endpoint, job.mark) for job in jobs] == [
        ("192.0.2.10:80", 5),
        ("192.0.2.10:80", 6),
    ]
    straight = Assignment().whole(world, 0.0).start
    assert [(job.endpoint, job.mark) for job in straight] == [("198.51.100.1:8080", 0)]
    assert {via.address for via in told.vias(world, 0.0)} == marks.keys()


def through(check: Check, *servers: int):
    forwarding = Forwarding(Mode.DR)
    return dataclasses.replace(service(*servers), check=check, forwarding=forwarding)


@pytest.mark.parametrize(
    ("interval", "probe", "workers"),
    [(2.0, TcpProbe(), 1), (0.02, TcpProbe(), 2), (0.05, HttpProbe(), 2), (0.001, TcpProbe(), 2)],
)
def test_checks_are_spread_over_as_many_workers_as_they_need(interval, probe, workers) -> None:
    check = Check(probe, Timing(interval=interval))
    world = World(config(web=with_check(check, *range(1, 201))))
    parts = [Assignment(partial(ordinary, n, 2)).whole(world, 0.0).start for n in range(3)]
    assert sum(bool(part) for part in parts) == workers
    assert sorted(job.endpoint for part in parts for job in part) == sorted(
        str(target.endpoint) for _, target in targets(world.config)
    )


def test_who_refuses_is_suspected_by_its_place() -> None:
    world = World(config(web=service(1, 2), udp=service(2, listens="192.0.2.11:53/udp")))
    listen = Listen.parse("192.0.2.10:80/tcp")
    places = {
        (listen, Endpoint.parse("198.51.100.2:8080")),
        (listen, Endpoint.parse("192.0.2.9:1")),
    }
    assert [str(one) for one in suspected(world, places)] == ["tcp 198.51.100.2:8080"]
    assert suspected(world, set()) == set()


# --- words ------------------------------------------------------------------------------


def example(kind: type[Event]) -> Event:
    values = {str: "text", int: 3, float: 1.5, Health: Health.UP, Admin: Admin.DRAIN}
    hints = typing.get_type_hints(kind)
    return kind(
        **{
            name: values.get(hints[name], ("a", "b") if "tuple" in str(hints[name]) else None)
            for name in kind.__struct_fields__
        }
    )


@pytest.mark.parametrize("kind", typing.get_args(AnyEvent), ids=lambda kind: kind.__name__)
def test_every_event_has_words_with_its_object_first(kind: type[Event]) -> None:
    text = render(example(kind))
    assert ": " in text
    assert "None" not in text


def test_words_of_events() -> None:
    evidence = "3 of 3 probes: connection refused"
    assert (
        render(HealthChanged("web/app1", Health.DOWN, evidence)) == f"web/app1: down ({evidence})"
    )
    assert render(Ordered("web/app1", Admin.DRAIN, "ada", "disk")) == (
        "web/app1: drain ordered by ada: disk"
    )
    many = ConfigRefused("f", ("a", "b", "c", "d", "e"), 2)
    assert render(many) == "f: not taken, generation 2 stays: a; b; c and 2 more"


def test_an_event_is_one_line_whoever_is_quoted_in_it() -> None:
    record = History().add(0.0, HealthChanged("web/app1", Health.DOWN, "a\n\x1b[2Jweb/app2: up"))
    assert record.text == "web/app1: down (a\\x0a\\x1b[2Jweb/app2: up)"


def test_a_reason_is_one_line_of_200_characters_at_most() -> None:
    order = decode(
        b'{"target": "web", "admin": "drain", "reason": "a\\u001b[2J\\nb"}', OrderRequest
    )
    assert order.manner("ada", 0.0).reason == "a\\x1b[2J\\x0ab"
    long = decode(msgspec.json.encode({"reason": "x" * 3_000_000}), PlainRequest)
    assert long.manner("ada", 0.0).reason == "x" * 200


def test_the_history_is_bounded_and_numbered_without_gaps() -> None:
    history = History(size=3)
    for number in range(5):
        history.add(float(number), HealthChanged(f"web/{number}", Health.UP, ""))
    assert [record.number for record in history.since(0)] == [3, 4, 5]
    assert [record.text for record in history.since(4)] == ["web/4: up"]


def test_a_word_for_every_rule() -> None:
    world = World(config(web=service(1)))
    [one] = decide(world, "web", 0.0)
    words = {rule: state_word(dataclasses.replace(one, rule=rule), Admin.DRAIN) for rule in Rule}
    assert all(words.values())
    assert len({words[rule] for rule in (Rule.HEALTH, Rule.ADMIN, Rule.NEWCOMER)}) == 3
    dead = dataclasses.replace(one, weight=None)
    assert state_word(dataclasses.replace(dead, rule=Rule.ADMIN), Admin.DRAIN) == "drained"
    assert state_word(dataclasses.replace(dead, rule=Rule.ADMIN), Admin.MAINT) == "maint"
    assert state_word(dataclasses.replace(dead, rule=Rule.LEAVING), Admin.READY) == "gone"
    assert state_word(dataclasses.replace(one, weight=0), Admin.READY) == "idle"


# --- failures ---------------------------------------------------------------------------


def test_a_failure_that_nobody_foresaw_has_the_shape_of_every_other(caplog) -> None:
    request = cast(web.Request, SimpleNamespace(method="POST", path="/v1/apply"))

    async def handler(_: web.Request) -> web.StreamResponse:
        raise OSError(28, "No space left on device")

    answer = asyncio.run(errors(request, handler))
    assert isinstance(answer, web.Response)
    assert (answer.status, answer.content_type) == (500, "application/json")
    assert msgspec.json.decode(answer.body) == {
        "error": "POST /v1/apply: OSError: [Errno 28] No space left on device",
        "hint": "lbctl did not expect that: the daemon's log has more",
        "exit_code": 1,
        "faults": [],
    }
    assert "Traceback" in caplog.text


# --- requests ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{",
        b"\xff",
        b'{"target": 1, "admin": "drain"}',
        b'{"target": "web", "admin": "dead"}',
        b'{"target": "web", "admin": "drain", "extra": 1}',
        b'{"target": "web"}',
        b"[" * 100000,
    ],
)
def test_a_body_of_another_shape_is_a_bad_request(body: bytes) -> None:
    with pytest.raises(BadRequest, match="request body"):
        decode(body, OrderRequest)


def test_an_expectation_is_one_of_three() -> None:
    with pytest.raises(BadRequest, match="expect"):
        decode(b'{"path": ["services", "web"], "expect": "maybe"}', OverrideRequest)


@pytest.mark.parametrize("seconds", ["0", "-1", "1e99"])
def test_a_change_holds_for_a_time_that_can_be(seconds: str) -> None:
    body = f'{{"target": "web", "admin": "drain", "seconds": {seconds}}}'
    with pytest.raises(BadRequest, match="not a time"):
        decode(body.encode(), OrderRequest).manner("ada", 0.0)


def test_a_change_ends_counted_from_now() -> None:
    body = b'{"target": "web", "admin": "drain", "seconds": 60, "reason": "disk"}'
    manner = decode(body, OrderRequest).manner("ada", 1000.0)
    assert manner == Manner("ada", "disk", 1060.0)
