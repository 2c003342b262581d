"""ipvsadm's verbs against a real daemon: what each makes of the configuration. What they are in
a kernel is seen in tests/vm."""

import subprocess

from lbctl.errors import Exit

from .conftest import Daemon, Ran


def ipvsadm(daemon: Daemon, words: str, said: str = "") -> Ran:
    """`said`: on its standard input."""
    command = [*daemon.lbctl, "ipvsadm", *words.split()]
    done = subprocess.run(
        command, input=said, capture_output=True, text=True, timeout=60, check=False
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def done(daemon: Daemon, words: str, said: str = "") -> None:
    ran = ipvsadm(daemon, words, said)
    assert ran.code == 0, ran.err


def services(daemon: Daemon) -> dict[str, str]:
    return {row["name"]: row["scheduler"] for row in daemon.client.get("services")}


def weights(daemon: Daemon, service: str) -> dict[str, tuple[int | None, str]]:
    rows = daemon.client.get("servers", service=service)
    return {row["name"].split("/")[1]: (row["weight"], row["rule"]) for row in rows}


def test_a_service_comes_changes_and_goes_by_ipvsadms_verbs(steady: Daemon) -> None:
    dns, name = "-u 192.0.2.20:53", "192-0-2-20-53-udp"
    done(steady, f"-A {dns} -s rr")
    assert services(steady) == {"web": "rr", name: "rr"}
    done(steady, f"-a {dns} -r 198.51.100.1 -m")
    done(steady, f"-a {dns} -r 198.51.100.2:5353 -m -w 4")
    one, two = "198-51-100-1-53", "198-51-100-2-5353"
    assert {key: weight for key, (weight, _) in weights(steady, name).items()} == {one: 1, two: 4}
    done(steady, f"-e {dns} -r 198.51.100.2:5353 -m -w 6")
    done(steady, f"-E {dns} -s wlc -p 600")
    assert services(steady)[name] == "wlc"
    assert weights(steady, name)[two][0] == 6
    done(steady, f"-d {dns} -r 198.51.100.1")
    assert weights(steady, name)[one] == (0, "leaving")  # it finishes its flows
    last = ipvsadm(steady, f"-d {dns} -r 198.51.100.2:5353")
    assert last.code == Exit.REFUSED
    assert "no server would be left" in last.err
    done(steady, f"-D {dns}")
    assert services(steady) == {"web": "rr"}


def test_many_lines_are_restored_or_none_is(steady: Daemon) -> None:
    good = "-A -t 192.0.2.30:80 -s rr\n-a -t 192.0.2.30:80 -r 198.51.100.1:80 -m -w 3\n"
    bad = ipvsadm(steady, "-R", good + "-a -t 192.0.2.30:80 -r 198.51.100.2:80 -g -w 3\n")
    assert (bad.code, services(steady)) == (Exit.FAILED, {"web": "rr"})
    assert "line 3: " in bad.err
    done(steady, "-R", good)
    assert weights(steady, "192-0-2-30-80-tcp")["198-51-100-1-80"][0] == 3
    done(steady, "-D -t 192.0.2.30:80")


def test_clearing_asks(daemon: Daemon) -> None:
    done(daemon, "-A -t 192.0.2.30:80")
    asked = ipvsadm(daemon, "-C", "n\n")
    assert asked.code == Exit.REFUSED
    assert "Remove all services of lbctl, 2 in number (192-0-2-30-80-tcp, web)?" in asked.err
    assert len(services(daemon)) == 2
    assert ipvsadm(daemon, "-C").code != 0  # nobody answers
    assert len(services(daemon)) == 2
    done(daemon, "-C", "y\n")
    assert services(daemon) == {}
    done(daemon, "-C")  # there is nothing to ask about


def test_what_only_ipvs_has_is_refused_elsewhere(steady: Daemon) -> None:
    for words in ("-Z", "--set 100 0 0", "--stop-daemon master", "-Ln", "-Lcn"):
        ran = ipvsadm(steady, words)
        assert (ran.code, ran.out) == (Exit.FAILED, "")
        assert "the data path is fake: it has no IPVS table" in ran.err
