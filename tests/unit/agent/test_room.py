"""Who may stay at the agent's doors."""

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.agent.test_looking import agent


def guest(address: str, since: float = 0.0, *, known: bool = False):
    one = agent.Guest(address, since, since + agent.PATIENCE)
    one.known = known
    return one


def test_one_address_has_so_many_places_and_the_rest_is_for_others() -> None:
    room = agent.Room()
    others = [guest(f"192.0.2.{n}") for n in range(1, agent.MOST_CLIENTS - 7)]
    flood = [guest("192.0.2.66") for _ in range(100)]
    gone = [room.enter(one) for one in (*others, *flood)]
    assert gone == [[]] * agent.MOST_CLIENTS + [[one] for one in flood[:-8]]


def test_nor_more_where_all_of_them_are_known() -> None:
    room = agent.Room(of_one=1)
    room.enter(guest("192.0.2.1", known=True))
    more = guest("192.0.2.1")
    assert room.enter(more) == [more]


def test_where_all_is_taken_who_has_most_makes_room_and_the_first_to_come_of_those() -> None:
    room = agent.Room(most=4, of_one=3)
    first, *_ = crowd = [guest("192.0.2.66") for _ in range(3)]
    for one in (guest("192.0.2.2"), *crowd):
        room.enter(one)
    assert room.enter(guest("192.0.2.1")) == [first]
    assert len(room.guests) == 4


def test_who_has_shown_a_certificate_is_not_sent_away_for_others() -> None:
    room = agent.Room(most=2)
    room.enter(guest("192.0.2.1", known=True))
    stranger, late = guest("192.0.2.66"), guest("192.0.2.67")
    room.enter(stranger)
    assert room.enter(late) == [stranger]
    late.known = True
    turned_away = guest("192.0.2.68")
    assert room.enter(turned_away) == [turned_away]


def test_time_that_is_over_frees_a_place() -> None:
    room = agent.Room(most=1)
    one = guest("192.0.2.1", since=10.0, known=True)
    room.enter(one)
    assert room.overdue(10.0 + agent.PATIENCE - 0.1) == []
    assert room.overdue(10.0 + agent.PATIENCE) == [one]
    assert room.enter(guest("192.0.2.2")) == []
    room.leave(one)  # its thread ends later
    assert len(room.guests) == 1


@given(st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=200))
def test_a_stranger_of_a_quiet_address_stays_as_long_as_one_who_came_before(
    others: list[tuple[int, bool]],
) -> None:
    room = agent.Room()
    for address, known in others:
        room.enter(guest(f"192.0.2.{address}", known=known))
        assert len(room.guests) <= agent.MOST_CLIENTS
    me = guest("198.51.100.1")
    if me in room.enter(me):
        assert all(one.known for one in room.guests)
        return
    for n in range(2 * agent.MOST_CLIENTS):
        before = [one for one in room.guests[: room.guests.index(me)] if not one.known]
        room.enter(guest(f"203.0.113.{n}"))
        if not before:
            break
        assert me in room.guests
