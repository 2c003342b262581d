"""What the agent sees: files of a kernel laid out in a directory, v1 and v2."""

import importlib.util
import shlex
import sys
from pathlib import Path

import pytest

from lbctl.cli.agent import install_commands

ROOT = Path(__file__).parents[3]
spec = importlib.util.spec_from_file_location("lbctl_agent", ROOT / "agents/lbctl_agent.py")
assert spec is not None
assert spec.loader is not None
agent = importlib.util.module_from_spec(spec)
sys.modules["lbctl_agent"] = agent
spec.loader.exec_module(agent)
MIB = 1 << 20


def lay(top: Path, **files: str) -> Path:
    """Files by name, `__` for a dot."""
    top.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (top / name.replace("__", ".")).write_text(text)
    return top


class Kernel:
    """/proc and cgroup trees under a directory."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.proc = lay(
            where / "proc",
            meminfo="MemTotal: 1024 kB\nMemAvailable: 256 kB\n",
            stat="cpu 100 0 100 700 100 0 0 0 0 0\n",
            loadavg="0.50 0.25 0.10 1/100 7\n",
        )
        (self.proc / "self").mkdir()
        self.lines: list[str] = []
        self.own("0::/")

    def own(self, text: str) -> None:
        (self.proc / "self/cgroup").write_text(text + "\n")

    def mount(self, point: Path, kind: str, options: str = "rw", root: str = "/") -> None:
        self.lines.append(f"30 20 0:26 {root} {point} rw - {kind} cgroup {options}")
        (self.proc / "self/mountinfo").write_text("\n".join(self.lines) + "\n")

    def v2(self) -> Path:
        tree = lay(self.where / "cg2", cgroup__controllers="cpu memory")
        self.mount(tree, "cgroup2")
        return tree

    def looker(self, name: str = ""):
        cgroup = agent.find_cgroup(name, self.where)
        return agent.Looker(cgroup, [], self.proc)


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_a_machine_has_no_limits_but_its_own(kernel: Kernel) -> None:
    kernel.v2()
    seen = kernel.looker()
    assert seen.cgroup is None
    assert seen.memory() == {"used": 0.75, "bytes": 768 * 1024, "total": MIB}
    assert seen.cpu_seconds() == pytest.approx(2.0)


def test_the_limits_of_v2_are_the_tightest_on_the_way_up(kernel: Kernel) -> None:
    tree = kernel.v2()
    lay(tree / "lab", cpu__max="50000 100000", memory__max=str(MIB // 2), cgroup__controllers="x",
        memory__current=str(300 * 1024), memory__stat="anon 1\ninactive_file 45056\n")  # fmt: skip
    lay(tree / "lab/app1", cpu__max="max 100000", memory__max="max", cgroup__controllers="x",
        cpu__stat="usage_usec 1500000\n",
        cpu__pressure="some avg10=12.50 avg60=1.0 total=9\n")  # fmt: skip
    seen = kernel.looker("/lab/app1")
    assert seen.cores() == 0.5
    assert seen.cpu_seconds() == 1.5
    assert seen.cpu() == {"used": 0.0, "cores": 0.5, "pressure": 0.125}
    assert seen.memory() == {"used": 0.5, "bytes": 256 * 1024, "total": MIB // 2}


def test_the_limits_of_v1_come_from_a_tree_for_each_controller(kernel: Kernel) -> None:
    for controllers in ("cpu,cpuacct", "memory"):
        kernel.mount(kernel.where / controllers, "cgroup", controllers)
    lay(kernel.where / "cpu,cpuacct/app1", cpu__cfs_quota_us="20000", cpu__cfs_period_us="100000",
        cpuacct__usage="3000000000")  # fmt: skip
    lay(kernel.where / "memory/app1", memory__limit_in_bytes="4096", memory__usage_in_bytes="3072",
        memory__stat="total_inactive_file 1024\n")  # fmt: skip
    seen = kernel.looker("/app1")
    assert (seen.cores(), seen.cpu_seconds()) == (0.2, 3.0)
    assert seen.memory() == {"used": 0.5, "bytes": 2048, "total": 4096}


def test_in_a_container_its_own_cgroup_counts(kernel: Kernel) -> None:
    tree = kernel.v2()
    lay(tree, memory__max="4096", memory__current="1024", cpu__max="10000 100000")
    seen = kernel.looker()
    assert seen.cores() == 0.1
    assert seen.memory()["total"] == 4096


def test_cpu_is_the_share_of_a_window_that_was_used(kernel: Kernel) -> None:
    tree = kernel.v2()
    app = lay(tree / "app1", cpu__max="50000 100000", cgroup__controllers="x")
    seen = kernel.looker("/app1")
    for second in range(10):
        (app / "cpu.stat").write_text(f"usage_usec {second * 250000}\n")
        seen.sample(float(second))
    assert seen.cpu()["used"] == 0.5
    for second in range(10, 20):
        seen.sample(float(second))
    assert seen.cpu()["used"] == 0.0


def test_load_network_and_connections_are_the_kernels_own_counts(kernel: Kernel) -> None:
    kernel.v2()
    row = "7 1 0 0 0 0 0 0 8 1 0 0 0 0 0 0"
    lay(kernel.proc / "net",
        dev=f"Inter-| Receive\n face |bytes\n    lo: {row}\n  eth0: {row}\n",
        snmp="Ip: Forwarding\nIp: 1\nTcp: MaxConn CurrEstab InSegs\nTcp: -1 12 99\n")  # fmt: skip
    seen = kernel.looker().all()
    assert seen["load"] == [0.5, 0.25, 0.1]
    assert seen["network"] == {"eth0": {"received": 7, "sent": 8}}
    assert seen["connections"] == {"established": 12}


@pytest.mark.parametrize(
    ("used", "words", "line"),
    [
        (0.10, "", "100% up ready"),
        (0.875, "", "50% up ready"),
        (0.99, "", "1% up ready"),
        (0.10, "drain", "100% drain"),
        (0.10, "maint#new kernel", "100% maint #new kernel"),
        (0.10, "down#no disk", "100% down #no disk"),
        (0.10, "30% up", "30% up"),
    ],
)
def test_the_line_for_haproxy(kernel: Kernel, used: float, words: str, line: str) -> None:
    one = agent.Agent(kernel.looker(), None, 0.80, 0.95)
    one.report = lambda: {
        **{"cpu": {"used": 0.0}, "memory": {"used": used}, "disks": [], "words": words}
    }
    assert one.line() == line


def test_prometheus_text_groups_rows_under_their_type() -> None:
    text = agent.prometheus(
        {
            "cpu": {"used": 0.5, "cores": 2.0, "pressure": 0.1},
            "memory": {"used": 0.25, "bytes": 1, "total": 4},
            "disks": [
                {"mount": '/a"b', "used": 0.1, "bytes": 1},
                {"mount": "/c", "used": 0.2, "bytes": 2},
            ],
            "load": [1.0, 2.0, 3.0],
            "network": {"eth0": {"received": 7, "sent": 8}},
            "connections": {"established": 9},
        }
    )
    assert text.count("# TYPE lbctl_agent_disk_used_ratio gauge\n") == 1
    assert 'lbctl_agent_disk_used_ratio{mount="/a\\"b"} 0.1\n' in text
    assert 'lbctl_agent_network_received_bytes_total{device="eth0"} 7\n' in text
    assert "lbctl_agent_cpu_pressure_ratio 0.1\n" in text


def test_the_unit_is_the_same_in_both_places() -> None:
    assert (ROOT / "agents/lbctl-agent.service").read_text() == agent.UNIT


@pytest.mark.parametrize("arguments", ["", "--cert /a --token-file /x", "--plain --disk /"])
def test_install_understands_what_lbctl_agent_install_sends(arguments: str) -> None:
    script = install_commands("app1", [Path("x")] * 3, arguments)[-1][-1]
    (line,) = (one for one in script.split("; ") if "lbctl_agent.py install" in one)
    sent = line.partition("lbctl_agent.py ")[2]
    assert agent.understood(shlex.split(sent)).arguments == arguments.split()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("install --nothing 1", "unrecognized arguments: --nothing 1"),
        ("serve --nothing", "unrecognized arguments: --nothing"),
        ("serve --soft 95", "--soft 95 has to be below --hard 95"),
        ("once --soft nan", "--soft nan has to be below --hard 95"),
        ("install --soft 99", "--soft 99 has to be below --hard 95"),
    ],
)
def test_what_it_cannot_be_told(words: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        agent.understood(words.split())
    assert why in capsys.readouterr().err
