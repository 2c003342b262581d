"""GSLB with a real resolver: who gets which site, and what a failure changes."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from lbctl.lab.waiting import eventually as wait_for
from tests.lab.gslb_lab import CDN, SERVER, SITES, TTL, Failed, GslbLab, gslb_lab, write_databases

MISSING = [tool for tool in ("unbound", "dig", "kdig", "curl", "nginx") if not shutil.which(tool)]
pytestmark = [
    pytest.mark.lab,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: apt-get install "
                       "unbound bind9-dnsutils knot-dnsutils curl nginx-light"),
]  # fmt: skip
SEOUL, TOKYO, FRANKFURT = SITES.values()
eventually = partial(wait_for, timeout=60.0)  # a busy machine takes seconds to start a verb


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GslbLab]:
    with gslb_lab(tmp_path_factory.mktemp("gslb")) as lab:
        for site in SITES:
            eventually(lambda site=site: all_up(lab, site), timeout=120)
        eventually(lambda: lab.resolve("www.gslb.example", "kt") == [SEOUL])
        yield lab


def states(lab: GslbLab, site: str) -> dict[str, str]:
    found = json.loads(lab.lbctl(site, "status", "-j"))
    return {one["site"]: one["state"] for one in found["sites"]}


def all_up(lab: GslbLab, site: str) -> bool:
    found = json.loads(lab.lbctl(site, "status", "-j"))
    return all(one["state"] == "up" and len(one["observers"]) >= 3
               for one in found["sites"] if one["site"] != "cdn")  # fmt: skip


def everywhere(lab: GslbLab, **wanted: str) -> bool:
    """Whether every server that runs sees these states."""
    running = [site for site in SITES if f"{site}/gslb" in lab.processes]
    return all(wanted.items() <= states(lab, site).items() for site in running)


@pytest.mark.parametrize(
    ("client", "name", "site"),
    [
        ("kt", "www", SEOUL),
        ("skb", "www", TOKYO),  # by its provider
        ("lgu", "www", SEOUL),
        ("ntt", "www", TOKYO),
        ("dtag", "www", FRANKFURT),  # by distance
        ("kt", "city", SEOUL),
        ("skb", "city", TOKYO),  # Busan
        ("lgu", "city", SEOUL),
    ],
)
def test_each_client_gets_its_site_through_unbound(lab, client, name, site) -> None:
    assert lab.resolve(f"{name}.gslb.example", client) == [site]
    assert lab.fetch(site, client) == next(key for key, a in SITES.items() if a == site)


@pytest.mark.parametrize(
    ("subnet", "site"), [("198.18.4.0/24", TOKYO), ("198.18.5.0/25", FRANKFURT)]
)
def test_every_server_answers_alike(lab, subnet, site) -> None:
    assert {tuple(lab.ask(one, "www.gslb.example", subnet)) for one in SITES} == {(site,)}


def test_unbound_follows_a_cname_to_the_cdn(lab) -> None:
    assert lab.resolve("img.gslb.example", "kt") == ["edge.cdn.example.", CDN]


def test_an_external_site_that_is_down_moves_its_users(lab) -> None:
    lab.stop("cdn", "nginx")
    eventually(lambda: lab.resolve("img.gslb.example", "kt") == [SEOUL])
    lab._nginx("cdn", f"{CDN}:80")
    eventually(lambda: lab.resolve("img.gslb.example", "kt") == ["edge.cdn.example.", CDN])


def test_a_service_without_servers_leaves_while_its_site_stays(lab) -> None:
    ntt = "198.18.4.0/24"
    eventually(lambda: lab.ask("seoul", "service.gslb.example", ntt) == [TOKYO])
    lab.stop("tokyo", "app")
    eventually(lambda: lab.ask("seoul", "service.gslb.example", ntt) == [SEOUL])
    assert lab.ask("seoul", "www.gslb.example", ntt) == [TOKYO]
    found = lab.lbctl("seoul", "explain", "service.gslb.example", "198.18.4.1")
    assert "tokyo down (web: no server)" in found
    lab._nginx("tokyo", f"{SERVER}:8080", "app")
    eventually(lambda: lab.ask("seoul", "service.gslb.example", ntt) == [TOKYO])


def test_a_silent_api_is_backed_by_the_vip(lab) -> None:
    """Longer than it takes to be found dead: the gateway's last report is forgotten."""
    ntt = "198.18.4.0/24"
    assert connections(lab, "seoul", "tokyo") is not None
    lab.stop("tokyo", "daemon")
    eventually(lambda: connections(lab, "seoul", "tokyo") is None)
    assert states(lab, "seoul")["tokyo"] == "up"
    assert lab.ask("seoul", "service.gslb.example", ntt) == [TOKYO]
    lab.stop("tokyo", "app")
    lab.gateway()
    eventually(lambda: connections(lab, "seoul", "tokyo") is not None)


def connections(lab: GslbLab, site: str, of: str) -> int | None:
    """What a site's server knows of another's connections."""
    found = json.loads(lab.lbctl(site, "status", "-j"))
    return next(one["connections"] for one in found["sites"] if one["site"] == of)


def test_load_spills_over_and_comes_back(lab) -> None:
    ntt = "198.18.4.0/24"
    assert lab.ask("seoul", "load.gslb.example", ntt) == [TOKYO]
    lab.feed("tokyo", load=0.9)
    eventually(lambda: lab.ask("seoul", "load.gslb.example", ntt) == [SEOUL])
    assert "tokyo at 90% keeps 0%" in lab.lbctl("seoul", "explain", "load.gslb.example",
                                                "198.18.4.1")  # fmt: skip
    lab.feed("tokyo", load=0.1)
    eventually(lambda: lab.ask("seoul", "load.gslb.example", ntt) == [TOKYO])


def test_measured_times_beat_distance(lab) -> None:
    dtag = "198.18.5.0/24"
    for site, seconds in (("seoul", 0.25), ("tokyo", 0.03), ("frankfurt", 0.3)):
        lab.feed(site, times={dtag: seconds})
    eventually(lambda: lab.ask("seoul", "near.gslb.example", dtag) == [TOKYO])
    assert lab.ask("seoul", "near.gslb.example", "198.18.1.0/24") == [SEOUL]
    for site in SITES:
        lab.feed(site, times={})
    eventually(lambda: lab.ask("seoul", "near.gslb.example", dtag) == [SEOUL])


def test_each_site_measures_how_far_a_network_is(lab) -> None:
    def known() -> bool:
        found = json.loads(lab.lbctl("seoul", "explain", "near.gslb.example", "198.18.2.9", "-j"))
        why = {step["step"]: step["why"] for step in found["steps"]}
        assert found["place"]["measured"] == "198.18.2.0/24"
        return "does not know" not in why["measured"]

    eventually(known)


def test_peers_without_a_certificate_hear_nothing(lab) -> None:
    url = f"https://{SEOUL}:8443/v1/site"
    assert lab.run("clients", "curl", "-sk", "-m", "3", url, check=False) == ""


def test_a_dead_site_leaves_the_answers_at_once(lab) -> None:
    lab.stop_host("tokyo")
    subnet = "198.18.4.0/24"
    verdict: list[float] = []

    def moved() -> bool:
        if not verdict and states(lab, "seoul")["tokyo"] == "down":
            verdict.append(time.monotonic())
        return lab.ask("seoul", "www.gslb.example", subnet) == [SEOUL]

    eventually(moved)
    late = time.monotonic() - verdict[0] if verdict else 0.0
    assert late < 4.0, f"the answers changed {late:.2f} s after the verdict"
    eventually(lambda: lab.resolve("www.gslb.example", "ntt") == [SEOUL], timeout=TTL + 8)
    revive(lab, "tokyo")
    eventually(lambda: lab.resolve("www.gslb.example", "ntt") == [TOKYO])


def revive(lab: GslbLab, site: str) -> None:
    lab._nginx(site, f"{SITES[site]}:80")
    lab.serve(site)
    if site == "tokyo":
        lab.gateway()
    eventually(lambda: everywhere(lab, **dict.fromkeys(SITES, "up")))
    eventually(lambda: all_up(lab, site))


def test_in_a_split_the_majority_goes_on_without_the_other_side(lab) -> None:
    for other in (TOKYO, FRANKFURT):
        lab.run("seoul", "ip", "route", "add", "blackhole", f"{other}/32")
    try:
        eventually(lambda: states(lab, "tokyo")["seoul"] == "down")
        eventually(lambda: states(lab, "frankfurt")["seoul"] == "down")
        kt = "198.18.1.0/24"
        assert lab.ask("tokyo", "www.gslb.example", kt) == [TOKYO]
        alone = states(lab, "seoul")
        assert (alone["tokyo"], alone["frankfurt"]) == ("up", "up")  # it has no majority
        assert lab.ask("seoul", "www.gslb.example", kt) == [SEOUL]
    finally:
        for other in (TOKYO, FRANKFURT):
            lab.run("seoul", "ip", "route", "delete", "blackhole", f"{other}/32")
    eventually(lambda: everywhere(lab, **dict.fromkeys(SITES, "up")))
    eventually(lambda: all_up(lab, "seoul"))


def test_a_drain_loses_no_request(lab) -> None:
    results: list[tuple[str, str]] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            found = lab.resolve("www.gslb.example", "ntt")
            results.append((found[0], lab.fetch(found[0], "ntt")) if found else ("", ""))

    worker = threading.Thread(target=load)
    worker.start()
    try:
        eventually(lambda: (TOKYO, "tokyo") in results)
        said = lab.lbctl("frankfurt", "drain", "tokyo", "--wait", "--reason", "test")
        assert said == "tokyo: empty\n"
        # An order given to one server holds on all.
        assert everywhere(lab, tokyo="draining")
        before = len(results)
        eventually(lambda: len(results) > before + 10)
        late = [found for found, _ in results[before + 1 :]]
    finally:
        stop.set()
        worker.join()
        lab.lbctl("frankfurt", "ready", "tokyo")
    failed = [one for one in results if not one[1]]
    assert (failed, set(late)) == ([], {SEOUL})
    eventually(lambda: everywhere(lab, tokyo="up"))


def test_a_database_is_swapped_while_queries_are_answered(lab) -> None:
    lost = 0
    swapped = False
    write_databases(lab.directory, move_kt_to="DE")
    deadline = time.monotonic() + 20
    while not swapped and time.monotonic() < deadline:
        found = lab.ask("seoul", "www.gslb.example", "198.18.1.0/24")
        lost += not found
        swapped = found == [SEOUL] and place(lab) == "DE"
    assert (lost, swapped) == (0, True)
    (lab.directory / "city.mmdb").write_bytes(b"not a database")
    eventually(lambda: "cannot read" in lab.lbctl("seoul", "status"))
    assert place(lab) == "DE"  # the one in use stays
    write_databases(lab.directory)
    eventually(lambda: place(lab) == "KR")
    eventually(lambda: "cannot read" not in lab.lbctl("seoul", "status"))


def place(lab: GslbLab) -> str:
    found = json.loads(lab.lbctl("seoul", "explain", "www.gslb.example", "198.18.1.1", "-j"))
    return found["place"]["country"]


def test_a_worker_that_is_killed_comes_back_without_losing_its_socket(lab) -> None:
    pids = workers(lab, "frankfurt")
    lab.run("frankfurt", "kill", "-9", *pids)
    eventually(lambda: lab.ask("frankfurt", "www.gslb.example", "198.18.5.0/24") == [FRANKFURT])
    assert workers(lab, "frankfurt") != pids


def workers(lab: GslbLab, site: str) -> list[str]:
    parent = lab.processes[f"{site}/gslb"].pid
    tasks = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [pid for pid in tasks if "gslb.worker" in Path(f"/proc/{pid}/cmdline").read_text()]


def test_a_bad_file_changes_nothing(lab) -> None:
    path = lab.directory / "gslb.zone"
    good = path.read_text()
    path.write_text(good + "www CNAME elsewhere\nwww A 192.0.2.1\n")
    try:
        with pytest.raises(Failed, match=r"gslb.zone:\d+: .*CNAME beside other data"):
            lab.lbctl("seoul", "reload")
        assert lab.ask("seoul", "www.gslb.example", "198.18.1.0/24") == [SEOUL]
    finally:
        path.write_text(good)
    assert lab.lbctl("seoul", "reload") == "reloaded\n"


def test_dig_and_kdig_agree_on_edns(lab) -> None:
    """The usual EDNS compliance queries (draft-ietf-dnsop-no-response-issue, section 8)."""
    at = [f"@{SEOUL}", "www.gslb.example"]
    for options, wanted in (
        (["+noedns", "+noad", "+norec"], "NOERROR"),
        (["+edns=0", "+nocookie"], "NOERROR"),
        (["+edns=100", "+noednsnegotiation"], "BADVERS"),
        (["+ednsopt=100"], "NOERROR"),
        (["+ednsflags=0x40"], "NOERROR"),
        (["+dnssec"], "NOERROR"),
        (["+edns=100", "+noednsnegotiation", "+ednsopt=100"], "BADVERS"),
        (["+opcode=15"], "NOTIMP"),
        (["+tcp"], "NOERROR"),
        (["+ednsopt=8:000118"], "FORMERR"),
    ):
        said = lab.run("clients", "dig", *at, "+time=5", "+tries=3", *options)
        assert f"status: {wanted}" in said, options
        # Neither an unknown flag nor an unknown option comes back, and the version is ours
        # (RFC 6891 section 6.1.3); DO does (RFC 3225 section 3).
        assert not {"MBZ", "OPT=100"} & set(said.split()), options
        if "OPT PSEUDOSECTION" in said:
            assert "version: 0" in said, options
        assert ("flags: do" in said) == ("+dnssec" in options), options
    said = lab.run("clients", "kdig", *at, "+nsid", "+subnet=198.18.4.0/24")
    assert '"seoul"' in said
    assert "CLIENT-SUBNET: 198.18.4.0/24/24" in said or "198.18.4.0/24/2" in said
    assert TOKYO in said
