"""The test: what an operator would try with two gateways, step by step. Each step is a
method; `steps()` is the list, with the time that each may take."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

from lbctl.config.duration import seconds as seconds_of
from lbctl.lab.file import FIRST_PRIORITY, STEP, VRIDS
from lbctl.lab.topology import Role
from lbctl.lab.waiting import eventually
from vagrant.figures import Held, Silence, answers, held, longest_silence, shared
from vagrant.gateway import Gateway
from vagrant.lab import VagrantLab
from vagrant.ssh import SshError
from vagrant.steps import Say, Step, StepFailed, undoing

REQUESTS = 20  # for each server: then a hash that leaves one out is no chance
CONNECTIONS = 20
DOWN, WHOLE = 8, 45  # seconds with KVM: a server is seen as down; it is restored then
PING = 0.02  # seconds between questions
HOLD = "python3 /usr/local/lib/lab/hold.py"


class Story:
    """figures: what is measured on the way, for the report."""

    def __init__(self, lab: VagrantLab) -> None:
        self.lab = lab
        self.figures: dict[str, str] = {}
        self.vip = lab.topology.vip
        # How long the VIP may be silent: after a crash, the other gateway must first miss it.
        self.handed_over = down_interval(seconds_of(lab.settings.interval))
        self.crashed = self.handed_over + self.patient(1)
        names = {role: [one.name for one in lab.topology.having(role)] for role in Role}
        self.one, self.two = (Gateway(lab.machines[name]) for name in names[Role.GATEWAY])
        self.servers = names[Role.SERVER]
        self.client = lab.machines[names[Role.CLIENT][0]]
        self.many = REQUESTS * len(self.servers)

    def steps(self) -> list[Step]:
        def step(seconds: float, run: Callable[[Say], None], needed: bool = False) -> Step:
            title = (run.__doc__ or "").strip().splitlines()[0]
            return Step(title, seconds * self.lab.settings.patience, run, needed)

        return [
            step(60, self.machines_answer, needed=True),
            step(40, self.gateways_agree, needed=True),
            step(20, self.balance_by_xdp),
            step(20, self.virtual_mac),
            step(30, self.lose_nginx),
            step(40, self.overload),
            step(60, self.heal),
            step(90, self.lose_a_gateway),
            step(60, self.cut_a_nic),
            step(90, self.reboot),
            step(40, self.balance_by_ipvs),
        ]

    # --- the steps ----------------------------------------------------------------------

    def machines_answer(self, say: Say) -> None:
        """Every machine answers, each with a kernel and NICs of its own"""
        states = self.lab.states()
        for name in self.lab.machines:
            if states.get(name) != "running":  # as a test that was broken off may leave it
                say(f"{name} was {states.get(name, 'not there')}")
                self.lab.vagrant("up", "--no-provision", name, seconds=self.patient(30))
        for gateway in (self.one, self.two):
            self.lab.plug(gateway.name, "front", True)
        for machine in self.lab.machines.values():
            machine.forget()
            for line in machine.run(self.repair(machine.name)).splitlines():
                say(f"{machine.name}: {line}")
            kernel = machine.run("uname -r; systemd-detect-virt || true").split()
            links = machine.run("ip -br address show").splitlines()
            nics = [
                " ".join(line.split()[i] for i in (0, 2) if i < len(line.split())) for line in links
            ]
            say(f"{machine.name}: Linux {' '.join(kernel)}; {', '.join(nics[1:])}")

    def gateways_agree(self, say: Say) -> None:
        """One gateway is Active, the other follows it, and both hold the same state"""
        wait = self.patient(30)
        self.one.expect_role("active", wait)
        self.two.expect_role("backup", wait)
        self.two.expect_line(wait)
        self.healthy(wait)
        for gateway in (self.one, self.two):
            why = gateway.expect_datapath("xdp", wait)
            say(f"{gateway.name}: {gateway.roles()}; data path xdp: {why}")
        say(self.one.machine.run("lbctl ha peer").splitlines()[0])

    def balance_by_xdp(self, say: Say) -> None:
        """XDP: connections to the virtual address reach both servers"""
        self.one.expect_datapath("xdp", self.patient(10))
        lines(say, self.one.machine.run("lbctl get nic"))
        self.both_answer(say)
        lines(say, self.one.machine.run("lbctl stats"))

    def balance_by_ipvs(self, say: Say) -> None:
        """IPVS: the same file with `datapath: ipvs`, and back"""
        with undoing(lambda: self.datapath("xdp"), self.patient(20)):
            self.datapath("ipvs")
            self.both_answer(say)
            lines(say, self.one.machine.run("ipvsadm -Ln"))
        self.both_answer(say)

    def virtual_mac(self, say: Say) -> None:
        """The switch sees the virtual MAC behind the Active gateway"""
        for segment, vrid in VRIDS.items():
            port = self.lab.switch_port(virtual_mac(vrid))
            say(f"{virtual_mac(vrid)} ({segment}) is behind port {port or 'none'}")
            expect(port == f"{self.one.name}-{segment}", f"not behind {self.one.name}-{segment}")

    def lose_nginx(self, say: Say) -> None:
        """`systemctl stop nginx`: a server that does not answer leaves"""
        lost, *others = self.servers
        machine = self.lab.machines[lost]
        started = time.monotonic()
        with undoing(lambda: machine.run("systemctl start nginx"), self.patient(5)):
            machine.run("systemctl stop nginx")
            self.one.expect_servers({lost: "down"}, self.patient(DOWN))
            took = time.monotonic() - started
            say(f"{lost}: {self.one.evidence(lost)}")
            self.figures["nginx stopped: seen as down (asked by CLI over ssh)"] = f"{took:.1f} s"
            self.only(others, say)
        self.healthy(self.patient(15))
        self.both_answer(say)

    def overload(self, say: Say) -> None:
        """Real load on a processor: the agent tells, and the server leaves"""
        *others, busy = self.servers
        machine = self.lab.machines[busy]
        load = "systemd-run --quiet --collect --unit lab-load sh -c 'while :; do :; done'"
        with undoing(lambda: machine.run("systemctl stop lab-load"), self.patient(5)):
            machine.run(load)
            self.one.expect_servers({busy: "overloaded"}, self.patient(15))
            say(f"{busy}: {self.one.evidence(busy)}")
            self.only(others, say)
        self.healthy(self.patient(15))
        say(f"{busy}: {self.one.evidence(busy)}")

    def heal(self, say: Say) -> None:
        """A broken server: the hook `on_down` has the host restore its snapshot"""
        broken = self.servers[0]
        machine = self.lab.machines[broken]
        machine.run(
            "mv /usr/sbin/nginx /usr/sbin/nginx.gone; systemctl kill -s KILL nginx; touch /broken"
        )
        machine.forget()
        started = time.monotonic()
        self.one.expect_servers({broken: "down"}, self.patient(DOWN))
        say(f"{broken}: its nginx was removed and killed; the test restores nothing")
        self.one.expect_servers({broken: "serving"}, self.patient(WHOLE))
        took = time.monotonic() - started
        self.figures["server broken: whole again by its hook"] = f"{took:.0f} s"
        lines(say, self.one.machine.run("lbctl get hooks"))
        found = machine.run("test ! -e /broken && test -x /usr/sbin/nginx && echo restored").strip()
        say(f"{broken}: {found}, {took:.0f} s after it broke")
        refused = self.lab.refuses(self.one.machine, broken)
        say(f"the same key asking for another machine: {refused}")
        self.both_answer(say)

    def lose_a_gateway(self, say: Say) -> None:
        """`vagrant halt -f` of the Active gateway: the other one takes over"""
        with self.watched("halt -f", say, self.crashed):
            self.one.machine.forget()
            self.lab.vagrant("halt", "-f", self.one.name, seconds=self.patient(10))
            self.two.expect_role("active", self.patient(10))
            port = self.lab.switch_port(virtual_mac(VRIDS["front"]))
            say(f"{virtual_mac(VRIDS['front'])} is behind port {port}")
            expect(port == f"{self.two.name}-front", f"not behind {self.two.name}-front")
            time.sleep(5)
        say(f"{self.two.name} alone:")
        self.both_answer(say)
        with self.watched("coming back", say, self.handed_over):
            words = ("up", "--no-provision", self.one.name)
            self.lab.vagrant(*words, seconds=self.patient(30))
            self.one.expect_role("active", self.patient(40))
            self.two.expect_role("backup", self.patient(10))
            time.sleep(5)
        self.settled()

    def cut_a_nic(self, say: Say) -> None:
        """The cable of the Active gateway's front NIC is pulled: takeover, and back"""
        front = partial(self.lab.plug, self.one.name, "front")
        with self.watched("cable pulled, and back", say, self.handed_over):
            with undoing(lambda: front(True), self.patient(5)):
                front(False)
                self.two.expect_role("active", self.patient(10))
                for line in self.one.machine.run("lbctl ha status").splitlines()[:4]:
                    say(f"{self.one.name}: {line}")
                time.sleep(5)
            self.one.expect_role("active", self.patient(20))
            self.two.expect_role("backup", self.patient(10))
            time.sleep(5)
        self.settled()

    def reboot(self, say: Say) -> None:
        """A gateway is rebooted: it comes back by itself, and takes its address again"""
        before = self.one.machine.run("cat /proc/sys/kernel/random/boot_id")
        with self.watched("reboot", say, self.handed_over):
            with suppress(SshError):
                self.one.machine.call("systemctl reboot", 20)
            self.one.machine.forget()
            self.two.expect_role("active", self.patient(15))
            eventually(lambda: self.booted(before), self.patient(40))
            self.one.expect_role("active", self.patient(40))
            self.two.expect_role("backup", self.patient(10))
            time.sleep(5)
        self.settled()
        units = self.one.machine.run("systemctl is-active lbctl lbctl-vrrp").split()
        say(f"{self.one.name}: lbctl {units[0]}, lbctl-vrrp {units[1]}")

    # --- what they have in common -------------------------------------------------------

    def patient(self, seconds: float) -> float:
        return seconds * self.lab.settings.patience

    def healthy(self, seconds: float) -> None:
        for gateway in (self.one, self.two):
            gateway.expect_servers(dict.fromkeys(self.servers, "serving"), seconds)

    def settled(self) -> None:
        """As at the start."""
        wait = self.patient(40)
        self.one.expect_role("active", wait)
        self.two.expect_role("backup", wait)
        self.two.expect_line(wait)
        self.healthy(wait)

    def requests(self) -> Counter[str]:
        """New connections from the client, one after another: who answered."""
        many = f"http://{self.vip}/?[1-{self.many}]"
        said = self.client.run(
            f"curl -sS -m 60 --connect-timeout 10 -H 'Connection: close' '{many}'",
            self.patient(15),
        )
        return answers(said)

    def both_answer(self, say: Say) -> None:
        self.only(self.servers, say)

    def only(self, servers: list[str], say: Say) -> None:
        """These answer, and each of them."""
        found = self.requests()
        say(f"{self.many} connections: {shared(found)}")
        expect(found.total() == self.many, f"{self.many - found.total()} not answered")
        wanted = ", ".join(servers)
        expect(set(found) == set(servers), f"answers from {shared(found)}, not from {wanted}")

    def repair(self, machine: str) -> str:
        """What a test that was killed may have left there, as a shell command. A server that it
        broke is its hook's."""
        if machine in (self.one.name, self.two.name):
            return (
                "cmp -s /etc/lbctl/xdp.yaml /etc/lbctl/lbctl.yaml || {\n"
                "install -m 600 /etc/lbctl/xdp.yaml /etc/lbctl/lbctl.yaml\n"
                "systemctl restart --no-block lbctl\necho datapath: xdp again; }"
            )
        if machine in self.servers:
            return (
                "systemctl -q is-active lab-load && systemctl stop lab-load && "
                "echo lab-load stopped\n"
                "systemctl -q is-active nginx || { systemctl start nginx && "
                "echo nginx started; } || true"
            )
        # Not this shell, whose command line has the words too.
        return (
            "pkill -f '[l]ab/hold.py' && echo hold.py ended\npkill -x ping && echo ping ended\ntrue"
        )

    def datapath(self, name: str) -> None:
        gateways = (self.two, self.one)
        for gateway in gateways:
            gateway.machine.run(
                f"install -m 600 /etc/lbctl/{name}.yaml /etc/lbctl/lbctl.yaml && "
                "systemctl restart --no-block lbctl"
            )
        for gateway in gateways:
            gateway.expect_datapath(name, self.patient(20))
        self.settled()

    def booted(self, before: str) -> bool:
        """With another boot's number than that."""
        try:
            return self.one.machine.run("cat /proc/sys/kernel/random/boot_id", 30) != before
        except SshError:
            self.one.machine.forget()
            return False

    @contextmanager
    def watched(self, name: str, say: Say, silent: float) -> Iterator[None]:
        """Connections are held and the VIP is pinged meanwhile. What was seen is told; none may
        be lost, and the VIP be silent for so many seconds at most."""
        self.client.run("rm -f /tmp/hold.out /tmp/ping.out")
        start = "setsid nohup {} </dev/null >/tmp/{}.out 2>&1 & echo $!"
        question = self.patient(10)
        command = f"{HOLD} {self.vip} {CONNECTIONS} {question:.0f}"
        hold = self.client.run(start.format(command, "hold")).strip()
        end = [f"kill -TERM {hold}"]
        with undoing(lambda: self.client.run("; ".join(end)), self.patient(5)):
            eventually(lambda: "opened" in self.client.run("cat /tmp/hold.out"), self.patient(10))
            ping = self.client.run(start.format(f"ping -n -D -i {PING} {self.vip}", "ping")).strip()
            end.append(f"kill -INT {ping}")
            yield
        pinged = eventually(self.pinged, self.patient(5))
        kept = eventually(self.ended, question + self.patient(5))
        say(
            f"VIP pinged for {pinged.watched:.0f} s: silent for {pinged.seconds:.2f} s at most "
            f"({pinged.lost} pings lost); {kept.words}"
        )
        self.record(name, pinged, kept)
        expect(kept.opened == CONNECTIONS, f"{kept.opened} of {CONNECTIONS} connections opened")
        expect(kept.kept == kept.opened, f"{name}: {kept.words}")
        words = f"the VIP was silent for {pinged.seconds:.2f} s, not at most {silent:.2f}"
        expect(pinged.seconds <= silent, f"{name}: {words}")

    def pinged(self) -> Silence:
        try:
            return longest_silence(self.client.run("cat /tmp/ping.out"), PING)
        except ValueError as error:
            raise AssertionError(str(error)) from None

    def ended(self) -> Held:
        try:
            return held(self.client.run("cat /tmp/hold.out"))
        except ValueError as error:
            raise AssertionError(str(error)) from None

    def record(self, name: str, pinged: Silence, kept: Held) -> None:
        self.figures[f"{name}: longest silence of the VIP"] = f"{pinged.seconds:.2f} s"
        self.figures[f"{name}: connections kept"] = f"{kept.kept} of {kept.opened}"


def virtual_mac(vrid: int) -> str:
    """RFC 9568, section 7.3."""
    return f"00:00:5e:00:01:{vrid:02x}"


def down_interval(advert: float) -> float:
    """Active_Down_Interval of the gateway that takes over (RFC 9568, section 6.1)."""
    skew = (256 - (FIRST_PRIORITY - STEP)) * advert / 256
    return 3 * advert + skew


def lines(say: Say, text: str) -> None:
    for line in text.rstrip().splitlines():
        say(line)


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise StepFailed(otherwise)
