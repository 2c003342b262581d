"""From one topology to virtual machines, as data."""

from pathlib import Path

import pytest

from lbctl.config import parse
from lbctl.errors import LbctlError
from lbctl.lab.file import empty_file, gateway_file
from lbctl.lab.topology import Role, standard
from lbctl.model import Datapath
from vagrant import files, settings
from vagrant.lab import VagrantLab
from vagrant.machines import describe, port, topology
from vagrant.overlay import Keys, certificates
from vagrant.settings import LOCAL_BOX, Settings


def chosen(local_box: bool = True, kvm: bool = False, **environment: str) -> Settings:
    return settings.read(environment, kvm=kvm, local_box=local_box)


def test_two_gateways_two_servers_and_a_client() -> None:
    made = describe(chosen(), Path("/payload"))["machines"]
    nics = {one["name"]: [nic["network"] for nic in one["nics"]] for one in made}
    front, back, sync = "lbctl-front", "lbctl-back", "lbctl-sync"
    assert nics == {
        "client": [front],
        "lb1": [front, back, sync],
        "lb2": [front, back, sync],
        "server1": [back],
        "server2": [back],
    }


def test_a_machine_as_the_vagrantfile_reads_it() -> None:
    made = describe(chosen(LBCTL_VAGRANT_STATE="/state"), Path("/payload"))["machines"]
    assert made[-1] == {
        "name": "server2",
        "memory": 384,
        "payload": "/payload/server2.tar.gz",
        "console": "/state/lbctl-vagrant/server2.console",
        "nics": [{"network": "lbctl-back", "mac": "02:00:00:02:00:12", "port": "server2-back"}],
    }


def test_macs_and_ports_are_unique_and_ports_fit_the_kernel() -> None:
    made = describe(chosen(LBCTL_SERVERS="80"), Path("/payload"))["machines"]
    nics = [nic for one in made for nic in one["nics"]]
    assert len({nic["mac"] for nic in nics}) == len({nic["port"] for nic in nics}) == len(nics)
    assert max(len(nic["port"]) for nic in nics) <= 15
    assert port("server80", "back") == "server80-back"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"LBCTL_SERVERS": "one"}, "LBCTL_SERVERS=one: not a number from 2 to 80"),
        ({"LBCTL_SERVERS": "1"}, "LBCTL_SERVERS=1: not a number from 2 to 80"),
        ({"LBCTL_SERVER_MEMORY": "²"}, "not a number from 256"),
        ({"LBCTL_DRIVER": "xen"}, "LBCTL_DRIVER=xen: no such driver"),
    ],
)
def test_what_cannot_be_chosen_is_told(environment: dict[str, str], words: str) -> None:
    with pytest.raises(LbctlError, match=words):
        chosen(**environment)


def test_what_may_be_chosen() -> None:
    assert chosen().driver == "qemu"
    assert chosen(kvm=True).driver == "kvm"
    assert chosen(kvm=True, LBCTL_DRIVER="qemu").driver == "qemu"
    assert chosen().box_file == LOCAL_BOX
    assert chosen(local_box=False).box == "debian/bookworm64"
    assert chosen(local_box=False).box_file is None
    assert topology(chosen(LBCTL_SERVERS="3")).host("server3").address == "198.51.100.13"


def test_emulation_is_given_more_time() -> None:
    slow, fast = (describe(chosen(kvm=kvm), Path("/p"))["boot_timeout"] for kvm in (False, True))
    assert slow == 6 * fast
    assert chosen(LBCTL_PATIENCE="2").patience == 2


# --- one topology, one file --------------------------------------------------------------


@pytest.mark.parametrize("datapath", ["xdp", "ipvs"])
@pytest.mark.parametrize("node", ["lb1", "lb2"])
def test_the_gateways_file_is_good(datapath: str, node: str) -> None:
    text = files.gateway_yaml(chosen(), topology(chosen()), datapath)
    config = parse(text, node=node, datapath=Datapath.AUTO).config  # and its data path can do it
    assert config.gateway.datapath == datapath
    assert list(config.services["web"].servers) == ["server1", "server2"]
    priorities = {name: router.priority for name, router in config.routers.items()}
    assert priorities == dict.fromkeys(("front", "back"), {"lb1": 200, "lb2": 150}[node])
    line = config.gateway.replication
    assert line is not None
    assert str(line.listen) == {"lb1": "203.0.113.2:7400", "lb2": "203.0.113.3:7400"}[node]


def test_both_labs_have_the_same_file_but_for_what_a_pair_has() -> None:
    lab = standard(2)
    assert gateway_file(lab).splitlines() == [
        "apiVersion: lbctl/v1",
        "gateway:",
        "  front: front",
        "  back: back",
        "  datapath: xdp",
        "services:",
        "  web:",
        "    listen: 192.0.2.10:80/tcp",
        "    scheduler: rr",
        "    check: {type: http, path: /}",
        "    servers:",
        "      app1: 198.51.100.11:80",
        "      app2: 198.51.100.12:80",
    ]
    machines = files.gateway_yaml(chosen(), topology(chosen()), "xdp").splitlines()
    assert machines[:5] == gateway_file(lab).splitlines()[:5]
    listen = gateway_file(lab).splitlines()[7]
    assert listen in machines
    assert parse(empty_file(lab)).config.services == {}


def test_servers_answer_through_the_gateways_shared_address() -> None:
    lab = topology(chosen())
    host = lab.host("server1")
    text = files.network_file(host, host.nics[0])
    assert "Address=198.51.100.11/24\n" in text
    assert "Destination=0.0.0.0/0\nGateway=198.51.100.1\n" in text


def test_nics_are_named_by_their_macs() -> None:
    lab = topology(chosen())
    for host in lab.having(Role.GATEWAY):
        for nic in host.nics:
            text = files.link_file(nic)
            assert f"PermanentMACAddress={nic.mac}\n" in text
            assert f"Name={nic.name}\n" in text
            assert "TransmitChecksumOffload=no\n" in text


# --- certificates ------------------------------------------------------------------------


def test_another_server_gets_its_certificate_and_a_cut_one_is_made_again(tmp_path: Path) -> None:
    certificates(topology(chosen()), tmp_path)
    first = (tmp_path / "server1.pem").read_text()
    cut = (tmp_path / "gateway.pem").read_text().partition("-----BEGIN PRIVATE")[0]
    (tmp_path / "gateway.pem").write_text(cut)
    certificates(topology(chosen(LBCTL_SERVERS="3")), tmp_path)
    assert (tmp_path / "server1.pem").read_text() == first
    names = ("lb1", "lb2", "gateway", "server1", "server2", "server3")
    for name in names:
        assert "PRIVATE KEY" in (tmp_path / f"{name}.pem").read_text()


def test_a_lab_s_keys_end_with_it(tmp_path: Path) -> None:
    lab = VagrantLab(chosen(LBCTL_VAGRANT_STATE=str(tmp_path)))
    own = str(lab.settings.state)
    told = describe(lab.settings, lab.own)["machines"]
    assert all(one["payload"].startswith(f"{own}/") for one in told)


def test_keys_that_cannot_be_made_are_told(tmp_path: Path) -> None:
    keys = Keys(tmp_path)
    (tmp_path / "root.pub").mkdir()
    with pytest.raises(LbctlError, match="root: ssh-keygen: "):
        keys.make(["root"])
