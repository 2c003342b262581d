"""A service whose listens lie on both gateways: what is ordered at either holds on both, whoever
dies, and goes where it is taken back."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from lbctl.daemon.control import Manner
from lbctl.daemon.hearsay import Hearsay
from lbctl.ha import items
from lbctl.model import Frontend, parse_frontend
from lbctl.world import Admin

from .test_control import APP1_NAME, BY_ADA, FILE, WEIGHT, Desk

LISTENS = ("192.0.2.10:80/tcp", "192.0.2.20:80/tcp")
HERE, THERE = map(parse_frontend, LISTENS)
EVERY = {HERE, THERE}
LINES = ("10.0.0.1:7400", "10.0.0.2:7400")
BY_BOB = Manner(by="bob")
AHEAD = 100.0  # the second's clock


class Side:
    """One gateway. said: what the other one holds of it."""

    def __init__(self, desk: Desk, own: Frontend) -> None:
        self.desk, self.own, self.said = desk, {own}, dict[bytes, bytes]()
        self.complaints: list[str] = []

    async def open(self) -> None:
        self.control = await self.desk.open()
        self.heard = Hearsay(self.control, self.desk.touched.append, self.complaints.append)

    async def tell(self, other: "Side") -> None:
        """What changed since the last time; with `said` empty, a whole copy."""
        self.heard.adopt(self.own, other.own)
        new = dict(self.heard.orders(["web"], self.own, other.own)) if self.own else {}
        new |= dict(self.heard.changes(self.own, other.own))
        gone = dict.fromkeys(self.said.keys() - new.keys())
        news = items.read({k: v for k, v in new.items() if self.said.get(k) != v} | gone, 0.0)
        self.said = new
        offset = other.desk.time.clock.now() - self.desk.time.clock.now()
        missed = other.heard.orders_left_over(self.own, new.keys())
        orders = {**missed, **news.orders}
        other.heard.take_orders(orders, self.own, other.own, offset)
        changes = {**other.heard.left_over(self.own, new.keys()), **news.changes}
        await other.heard.take_changes(changes, self.own, other.own, offset)

    async def order(self, admin: Admin, by: Manner = BY_ADA) -> None:
        await self.control.order([APP1_NAME], admin, by)

    async def unset(self) -> None:
        (one,) = self.control.intent.overrides
        await self.control.drop_override(one.id, BY_ADA)

    @property
    def holds(self) -> tuple[str, object]:
        """The order for app1, and the weight that it was given live."""
        order = self.control.world.orders.get(APP1_NAME)
        values = [one.value for one in self.control.intent.overrides]
        return "" if order is None else order.admin, values[-1] if values else None


class Two:
    def __init__(self, home: Path) -> None:
        self.one, self.two = (
            Side(Desk(home / str(at), file(at)), own) for at, own in enumerate((HERE, THERE))
        )
        self.two.desk.time.now += AHEAD

    async def talk(self) -> None:
        for _ in range(3):
            await self.one.tell(self.two)
            await self.two.tell(self.one)

    async def agree(self, admin: str, weight: int | None) -> None:
        await self.talk()
        self.one.said, self.two.said = {}, {}  # and again, after whole copies
        await self.talk()
        assert (self.one.holds, self.two.holds) == ((admin, weight), (admin, weight))
        assert self.one.complaints == self.two.complaints == []

    def wait(self, seconds: float) -> None:
        for side in (self.one, self.two):
            side.desk.time.now += seconds


def file(at: int) -> str:
    line = f"listen: {LINES[at]}, peer: {LINES[1 - at]}, name: a"
    files = "certificate: /c, key: /k, ca: /a"
    text = FILE.replace("front: front0", f"front: front0, replication: {{{line}, {files}}}")
    return text.replace(LISTENS[0], f"[{', '.join(LISTENS)}]")


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Callable[[Two], Awaitable[None]]], None]:
    for at in range(2):
        (tmp_path / str(at)).mkdir()

    def run(story: Callable[[Two], Awaitable[None]]) -> None:
        async def whole() -> None:
            two = Two(tmp_path)
            await two.one.open()
            await two.two.open()
            await story(two)

        asyncio.run(whole())

    return run


Play = Callable[[Callable[[Two], Awaitable[None]]], None]


@pytest.mark.parametrize("first", ["one", "two"])
def test_an_order_and_a_change_hold_on_both_until_taken_back_where_they_were_made(
    play: Play, first: str
) -> None:
    async def story(two: Two) -> None:
        side, other = (two.one, two.two) if first == "one" else (two.two, two.one)
        await side.order(Admin.MAINT)
        await side.control.override(WEIGHT, 5, BY_ADA)
        await two.agree("maint", 5)
        await side.order(Admin.READY)
        await side.unset()
        other.said = {}
        await other.tell(side)  # a whole copy of one that has not heard of it yet
        await two.agree("", None)

    play(story)


def test_they_outlive_the_gateway_that_they_were_made_at(play: Play) -> None:
    """In the end they are those of the one that went on, and go with a word there."""

    async def story(two: Two) -> None:
        one, other = two.one, two.two
        await one.order(Admin.DRAIN)
        await one.control.override(WEIGHT, 5, BY_ADA)
        await two.talk()
        other.own, one.own = EVERY, set()  # the first died, and is back
        await two.agree("drain", 5)
        one.own = {HERE}
        await two.agree("drain", 5)  # it is still said twice by its gateway
        other.own = {THERE}
        await two.agree("drain", 5)
        await other.order(Admin.READY)
        await other.unset()
        await two.agree("", None)

    play(story)


@pytest.mark.parametrize(("wait", "counts"), [(60.0, ("drain", 7)), (1.0, ("maint", 5))])
def test_of_two_the_later_counts_and_at_once_that_of_the_smaller_address(
    play: Play, wait: float, counts: tuple[str, int]
) -> None:
    async def story(two: Two) -> None:
        await two.one.order(Admin.MAINT)
        await two.one.control.override(WEIGHT, 5, BY_ADA)
        two.wait(wait)
        await two.two.order(Admin.DRAIN, BY_BOB)
        await two.two.control.override(WEIGHT, 7, BY_BOB)
        await two.agree(*counts)

    play(story)
