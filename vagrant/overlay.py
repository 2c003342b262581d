"""What each machine gets: a tar file with everything in its final place, and /lab.env, by
which `provision` knows what to start.

Python packages are laid out here and not on the machine: pip there takes minutes where the
processor is emulated. Packet programs come compiled for the same reason; another shape is
compiled there, by bcc and the box's headers.
"""

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from lbctl.cli.agent import issue
from lbctl.config import parse
from lbctl.errors import LbctlError
from lbctl.lab.topology import Host, Nic, Role, Topology
from vagrant.files import agent_environment, gateway_yaml, link_file, network_file, nginx_file
from vagrant.machines import HOST
from vagrant.settings import REPOSITORY, Settings

PYTHON = "3.11"  # of Debian 12
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
PREFIX = "opt/lbctl"
SITE = f"{PREFIX}/lib/python{PYTHON}/site-packages"
LBCTL = f"""\
#!/{PREFIX}/bin/python3
import sys
from lbctl.cli.main import main
sys.exit(main())
"""


class Overlay:
    """A tar file being made: paths without their first slash."""

    def __init__(self, file: Path) -> None:
        self._tar = tarfile.open(file, "w:gz", compresslevel=3)  # noqa: SIM115

    def text(self, path: str, text: str, mode: int = 0o644) -> None:
        self._add(path, text.encode(), mode)

    def copy(self, path: str, file: Path, mode: int = 0o644) -> None:
        self._add(path, file.read_bytes(), mode)

    def tree(self, path: str, directory: Path) -> None:
        self._tar.add(directory, path, filter=_of_root)

    def link(self, path: str, to: str) -> None:
        info = tarfile.TarInfo(path)
        info.type, info.linkname = tarfile.SYMTYPE, to
        self._tar.addfile(info)

    def close(self) -> None:
        self._tar.close()

    def _add(self, path: str, data: bytes, mode: int) -> None:
        info = tarfile.TarInfo(path)
        info.size, info.mode = len(data), mode
        self._tar.addfile(info, io.BytesIO(data))


def _of_root(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    return info


# --- a machine --------------------------------------------------------------------------


def build(settings: Settings, topology: Topology, cache: Path, own: Path, keys: "Keys") -> None:
    """Write NAME.tar.gz for every machine to `own`, which ends with the lab: keys are in it.
    cache: for what every lab has. Raises LbctlError."""
    for place in (cache, own):
        place.mkdir(parents=True, exist_ok=True)
    site = packages(cache)
    programs = cache / "programs"
    compile_programs(settings, topology, programs)
    credentials = certificates(topology, own / "credentials")
    for host in topology.hosts:
        overlay = Overlay(own / f"{host.name}.tar.gz")
        common(overlay, host, keys)
        if host.role is Role.GATEWAY:
            gateway(overlay, host, settings, topology, credentials, keys)
            overlay.tree(SITE, site)
            overlay.tree("var/cache/lbctl/programs", programs)
        elif host.role is Role.SERVER:
            server(overlay, host, credentials)
        overlay.close()


class Keys:
    """Pairs of ssh keys in a directory: `root` for the test, one a server for the hook."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def make(self, names: Sequence[str]) -> None:
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name in names:
            if not (self.directory / name).exists():
                command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lab {name}"]
                command += ["-f", str(self.directory / name)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    raise LbctlError(f"{self.directory / name}: ssh-keygen: {done.stderr.strip()}")

    def private(self, name: str) -> Path:
        return self.directory / name

    def public(self, name: str) -> str:
        return (self.directory / f"{name}.pub").read_text()


def common(overlay: Overlay, host: Host, keys: Keys) -> None:
    overlay.text("lab.env", f"NAME={host.name}\nROLE={host.role}\nNICS='{_nics(host.nics)}'\n")
    overlay.text("root/.ssh/authorized_keys", keys.public("root"), 0o600)
    if host.role is Role.CLIENT:
        overlay.copy("usr/local/lib/lab/hold.py", REPOSITORY / "vagrant/hold.py")
    for nic in host.nics:
        overlay.text(f"etc/systemd/network/10-{nic.name}.link", link_file(nic))
        overlay.text(f"etc/systemd/network/10-{nic.name}.network", network_file(host, nic))


def _nics(nics: Sequence[Nic]) -> str:
    return " ".join(f"{nic.mac}={nic.name}" for nic in nics)


def gateway(
    overlay: Overlay,
    host: Host,
    settings: Settings,
    topology: Topology,
    credentials: Path,
    keys: Keys,
) -> None:
    for name in ("python", "python3", f"python{PYTHON}"):
        overlay.link(f"{PREFIX}/bin/{name}", "/usr/bin/python3")
    overlay.text(f"{PREFIX}/pyvenv.cfg", f"home = /usr/bin\nversion = {PYTHON}\n")
    overlay.text("usr/bin/lbctl", LBCTL, 0o755)
    overlay.link(f"{SITE}/bcc", "/usr/lib/python3/dist-packages/bcc")
    for datapath in ("xdp", "ipvs"):
        text = gateway_yaml(settings, topology, datapath)
        overlay.text(f"etc/lbctl/{datapath}.yaml", text, 0o600)
    overlay.text("etc/lbctl/lbctl.yaml", gateway_yaml(settings, topology, "xdp"), 0o600)
    overlay.text("etc/default/lbctl", f"LBCTL_NODE={host.name}\n")
    for name in (host.name, "gateway"):
        overlay.copy(f"etc/lbctl/pair/{name}.pem", credentials / f"{name}.pem", 0o600)
    overlay.copy("etc/lbctl/pair/ca.pem", credentials / "ca.pem")
    for unit in ("lbctl.service", "lbctl-vrrp.service"):
        overlay.copy(f"etc/systemd/system/{unit}", REPOSITORY / "systemd" / unit)
    for one in topology.having(Role.SERVER):
        overlay.copy(f"etc/lbctl/restore/{one.name}", keys.private(one.name), 0o600)
    overlay.text("etc/lbctl/restore/known_hosts", f"{HOST} {keys.public('host')}")
    overlay.copy("usr/local/sbin/restore-server", REPOSITORY / "vagrant/restore-server", 0o755)
    overlay.text("etc/sysctl.d/60-lab.conf", "net.ipv4.ip_forward = 1\n")


def server(overlay: Overlay, host: Host, credentials: Path) -> None:
    overlay.text("etc/nginx/nginx.conf", nginx_file(host.name))
    agent = "usr/local/lib/lbctl-agent/lbctl_agent.py"
    overlay.copy(agent, REPOSITORY / "agents/lbctl_agent.py", 0o755)
    unit = "lbctl-agent.service"
    overlay.copy(f"etc/systemd/system/{unit}", REPOSITORY / "agents" / unit)
    overlay.text("etc/lbctl-agent/agent.env", agent_environment())
    overlay.copy("etc/lbctl-agent/agent.pem", credentials / f"{host.name}.pem", 0o600)
    overlay.copy("etc/lbctl-agent/ca.pem", credentials / "ca.pem")


# --- what goes in -----------------------------------------------------------------------


def packages(payload: Path) -> Path:
    """The wheel and all it needs, as a machine's Python finds them. What it needs is fetched
    once, and again when pyproject.toml changes."""
    print_of = hashlib.sha256((REPOSITORY / "pyproject.toml").read_bytes()).hexdigest()[:12]
    base, site = payload / f"packages-{print_of}", payload / "site"
    wheel = build_wheel(payload / "wheel")
    if not base.exists():
        fresh = payload / "packages-new"
        shutil.rmtree(fresh, ignore_errors=True)
        where = [word for platform in PLATFORMS for word in ("--platform", platform)]
        kind = ["--python-version", PYTHON, "--implementation", "cp", "--only-binary=:all:"]
        _pip("install", "--target", str(fresh), *where, *kind, str(wheel))
        fresh.rename(base)
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree(base, site, symlinks=True)
    for stale in (site / "lbctl", *site.glob("lbctl-*.dist-info"), site / "bin"):
        shutil.rmtree(stale, ignore_errors=True)
    _pip("install", "--no-deps", "--target", str(site), "--upgrade", str(wheel))
    if not (site / "lbctl/bpf").exists():
        shutil.copytree(REPOSITORY / "bpf", site / "lbctl/bpf", ignore=_not_source)
    return site


def _not_source(directory: str, names: list[str]) -> Iterator[str]:
    return (name for name in names if not name.endswith((".c", ".h")))


def build_wheel(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    _pip("wheel", "--no-deps", "--wheel-dir", str(directory), str(REPOSITORY))
    return next(directory.glob("lbctl-*.whl"))


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise LbctlError(f"pip {words[0]}: {done.stderr.strip()[-800:]}")


def compile_programs(settings: Settings, topology: Topology, directory: Path) -> None:
    """The packet programs that the lab's file needs, in the cache's form. A child compiles:
    bcc's memory leaves with it."""
    gateways = topology.having(Role.GATEWAY)
    file = parse(gateway_yaml(settings, topology, "xdp"), node=gateways[0].name)
    flows = file.config.gateway.flow_cache
    command = [sys.executable, "-m", "vagrant.programs", str(flows), str(directory)]
    done = subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode != 0:
        raise LbctlError(f"packet programs: {done.stderr.strip()[-800:]}", "tools/setup demo")


def certificates(topology: Topology, directory: Path) -> Path:
    """Of the pair's line, of agents, and the one that gateways ask agents with: those of them
    that are not there, or not whole."""
    one, two = topology.having(Role.GATEWAY)
    wanted = [([one.name], False), ([two.name], True), (["gateway"], True)]  # one listens
    wanted += [([host.name, host.address], False) for host in topology.having(Role.SERVER)]
    for names, client in wanted:
        file = directory / f"{names[0]}.pem"
        if not file.exists() or "PRIVATE KEY" not in file.read_text():
            issue(directory, names, client=client, days=825)
    return directory
