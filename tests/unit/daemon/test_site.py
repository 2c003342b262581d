"""What a gateway says of its site."""

import pytest

from lbctl.daemon.remote import certificate_names
from lbctl.daemon.shapes import AgentView, ServiceView
from lbctl.daemon.site import site_report


def service(name: str, scheduled: int = 1, connections: int | None = None) -> ServiceView:
    return ServiceView(
        name=name, listens=(), scheduler="mh", mode="nat", check="tcp", state="serving",
        because="", servers=1, scheduled=scheduled, connections=connections, problems=(),
    )  # fmt: skip


def agent(server: str, cpu: float | None, memory: float | None, state: str = "speaks") -> AgentView:
    return AgentView(
        server=server, address="", speaks="", state=state, cpu=cpu, memory=memory, disk=0.99,
        words="", connections=None, out=False, eighths=8, weight=1, evidence="",
    )  # fmt: skip


def test_a_site_is_up_by_service_and_counts_connections() -> None:
    report = site_report("gw", [service("web", 2, 70), service("dns", 0, None)], [])
    assert report.connections == 70
    assert {name: one.up for name, one in report.services.items()} == {"web": True, "dns": False}


def test_the_load_is_the_mean_of_what_agents_say_by_their_fuller_resource() -> None:
    agents = [
        agent("web/a", 0.9, 0.1),
        agent("web/b", 0.1, 0.3),
        agent("web/silent", 1.0, 1.0, "silent"),
        agent("web/wordless", None, None),
        agent("db/c", 0.6, None),
    ]
    report = site_report("gw", [service("web"), service("db"), service("plain")], agents)
    loads = {name: one.load for name, one in report.services.items()}
    assert loads == {"web": 0.6, "db": 0.6, "plain": 0.0}
    assert report.load == 0.6


@pytest.mark.parametrize(
    ("found", "names"),
    [
        ({"subjectAltName": (("DNS", "seoul"), ("DNS", "a.example"), ("IP Address", "192.0.2.1")),
          "subject": ((("commonName", "other"),),)}, ["seoul", "a.example"]),
        ({"subject": ((("countryName", "KR"),), (("commonName", "tokyo"),))}, ["tokyo"]),
        ({}, []),
    ],
)  # fmt: skip
def test_alternative_names_beat_the_common_name(found, names) -> None:
    assert list(certificate_names(found)) == names
