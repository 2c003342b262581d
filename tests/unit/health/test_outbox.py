from lbctl.health.judge import Health
from lbctl.health.outbox import Outbox
from lbctl.messages import AnyMessage, Pulse, Unframer, Verdict

UP = Verdict(1, Health.UP, "connected in 2 ms", 0.002)
DOWN = Verdict(1, Health.DOWN, "3 of 3 probes: connection refused", 0.001)


def drain(outbox: Outbox, piece: int = 1000) -> list[AnyMessage]:
    """What the other side reads when the line takes `piece` bytes at a time."""
    unframer, heard = Unframer(), []
    while data := outbox.next_piece():
        taken = bytes(data[:piece])
        outbox.sent(len(taken))
        heard += unframer.feed(taken)
    return heard


def test_it_is_empty_at_first() -> None:
    assert not Outbox()
    assert drain(Outbox()) == []


def test_verdicts_come_in_order_and_before_the_pulse() -> None:
    outbox = Outbox()
    other = Verdict(2, Health.UP, "200 in 3 ms", 0.003)
    outbox.pulse(Pulse(2, 10, 0.001))
    outbox.verdict(UP)
    outbox.verdict(other)
    assert drain(outbox) == [UP, other, Pulse(2, 10, 0.001)]
    assert not outbox


def test_what_was_not_read_yet_is_superseded() -> None:
    outbox = Outbox()
    for _ in range(1000):
        outbox.verdict(UP)
        outbox.verdict(DOWN)
        outbox.pulse(Pulse(1, 1, 0.0))
    assert drain(outbox) == [DOWN, Pulse(1, 1, 0.0)]


def test_a_message_under_way_is_finished_first() -> None:
    outbox = Outbox()
    outbox.verdict(UP)
    first = bytes(outbox.next_piece()[:5])
    outbox.sent(5)
    outbox.verdict(DOWN)
    unframer = Unframer()
    assert list(unframer.feed(first)) == []
    rest = bytes(outbox.next_piece())
    outbox.sent(len(rest))
    assert list(unframer.feed(rest)) == [UP]
    assert drain(outbox) == [DOWN]


def test_pieces_of_one_byte_arrive_whole() -> None:
    outbox = Outbox()
    outbox.verdict(UP)
    outbox.pulse(Pulse(1, 1, 0.0))
    assert drain(outbox, piece=1) == [UP, Pulse(1, 1, 0.0)]


def test_who_asked_is_answered_by_whatever_supersedes_the_answer() -> None:
    outbox = Outbox()
    outbox.verdict(Verdict(1, Health.UP, "connected in 2 ms", 0.002, asked=True))
    outbox.verdict(DOWN)
    assert drain(outbox) == [
        Verdict(1, Health.DOWN, "3 of 3 probes: connection refused", 0.001, asked=True)
    ]
