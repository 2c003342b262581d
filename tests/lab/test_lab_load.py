"""The load itself: what it counts is what happened."""

import pytest

from lbctl.lab import Lab, eventually
from lbctl.lab.load import Pace, failures, pressing, send, sending

pytestmark = pytest.mark.lab


def url(lab: Lab, number: int = 0) -> str:
    return f"http://{lab.servers[number].address}:80/"


def test_every_request_is_accounted_for(lab: Lab) -> None:
    answers = send(lab.client, url(lab), Pace(total=100, connections=4))
    assert sorted(answer.number for answer in answers) == list(range(100))
    assert {answer.server for answer in answers} == {"app1"}
    assert failures(answers) == []


def test_connections_are_kept_and_closed_as_planned(lab: Lab) -> None:
    def accepted() -> int:
        said = lab.servers[0].run(["nstat", "-asz", "TcpPassiveOpens"]).stdout
        return int(said.split()[-2])

    before = accepted()
    # The server closes after 100, the client after 250: 100, 100 and 50.
    answers = send(lab.client, url(lab), Pace(total=250, per_connection=250))
    assert len(answers) == 250
    assert failures(answers) == []
    assert accepted() - before == 3


def test_the_rate_is_kept(lab: Lab) -> None:
    answers = send(lab.client, url(lab), Pace(total=50, connections=5, rate=100))
    assert answers[-1].at - answers[0].at > 0.4


def test_a_dead_server_costs_what_it_costs(lab: Lab) -> None:
    server = lab.servers[1]
    with sending(lab.client, url(lab, 1), Pace(connections=2, rate=200)) as load:
        eventually(lambda: len(load.answers()) > 20)
        assert failures(load.answers()) == []
        server.web.kill()
        eventually(lambda: len(failures(load.answers())) > 5)
        server.web.start()
        back = len(load.answers())
        eventually(lambda: load.answers()[back + 20 :])
        answers = load.stop()
    assert not failures(answers[-10:])
    assert {answer.error for answer in failures(answers)} - {""}


def test_a_load_that_is_stopped_leaves_no_request_untold(lab: Lab) -> None:
    with sending(lab.client, url(lab), Pace(connections=3, per_connection=10)) as load:
        eventually(lambda: len(load.answers()) > 100)
        answers = load.stop()
    assert sorted(answer.number for answer in answers) == list(range(len(answers)))
    assert failures(answers) == []


def connected(lab: Lab, number: int) -> bool:
    """Whether wrk is at work: it has all its connections to this server."""
    seen = lab.servers[number].run(["ss", "-Htn", "state", "established"]).stdout
    return len(seen.splitlines()) >= 5


def test_wrk(lab: Lab) -> None:
    with pressing(lab.client, url(lab), connections=5) as wrk:
        eventually(lambda: connected(lab, 0))
        eventually(lambda: wrk.seconds > 0.5)
        report = wrk.stop()
    assert report.requests > 0
    assert report.failed == 0


def test_wrk_counts_what_fails(lab: Lab) -> None:
    server = lab.servers[2]
    with pressing(lab.client, url(lab, 2), connections=5) as wrk:
        eventually(lambda: connected(lab, 2))
        server.web.kill()
        killed = wrk.seconds
        eventually(lambda: wrk.seconds > killed + 0.2)
        assert wrk.stop().failed > 0
    server.web.start()


def test_wrk_that_cannot_start_is_no_success(lab: Lab) -> None:
    with pressing(lab.client, "http://192.0.2.1:1/") as wrk, pytest.raises(ValueError, match="wrk"):
        wrk.stop()
