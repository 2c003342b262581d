"""Who may import whom. The lists below are the documentation:

    nouns  <-  cores  <-  shells  <-  programs

A core is pure: no sockets, no clock, no files, no logging; time is passed in. A shell
touches the world, each one part of it. A module imports its own layer and those before it.
A new module is found in these lists, or it fails the test that says where to list it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# A name is a module; with `.*` it is a package and all below it. The longest name counts.
LAYERS: dict[str, set[str]] = {
    "nouns": {"lbctl", "lbctl.model", "lbctl.errors"},
    "cores": {
        "lbctl.config.*",
        "lbctl.dataplane",
        "lbctl.dataplane.capabilities",
        "lbctl.dataplane.converge",
        "lbctl.dataplane.fake",
        "lbctl.dataplane.faketraffic",
        "lbctl.dataplane.ipvs.*",
        "lbctl.dataplane.madeup",
        "lbctl.dataplane.nics",
        "lbctl.dataplane.plan",
        "lbctl.dataplane.port",
        "lbctl.dataplane.ring",
        "lbctl.desired",
        "lbctl.differing",
        "lbctl.events",
        "lbctl.gslb.*",
        "lbctl.ha.*",
        "lbctl.health",
        "lbctl.health.agentwords",
        "lbctl.health.dns1",
        "lbctl.health.grpc1",
        "lbctl.health.http1",
        "lbctl.health.judge",
        "lbctl.health.matching",
        "lbctl.health.outbox",
        "lbctl.health.report",
        "lbctl.health.result",
        "lbctl.health.roster",
        "lbctl.health.schedule",
        "lbctl.load",
        "lbctl.messages",
        "lbctl.said",
        "lbctl.stats.*",
        "lbctl.vrrp.*",
        "lbctl.world",
    },
    "shells": {
        "lbctl.configfile",  # the file, in bytes
        "lbctl.dataplane.ipvs.intent",  # the file of what is ours
        "lbctl.dataplane.ipvs.netlink",  # the kernel's IPVS
        "lbctl.dataplane.ipvs.nft",  # nftables, for full NAT
        "lbctl.dataplane.ipvs.plane",
        "lbctl.dataplane.ipvs.refusal",  # the kernel's errnos
        "lbctl.dataplane.ipvs.sysctls",  # the kernel's switches
        "lbctl.dataplane.select",  # which data path this box can have
        "lbctl.dataplane.vips",  # VIPs on interfaces
        "lbctl.dataplane.xdp.*",  # pins, maps, the loader child
        "lbctl.gslb.board",  # answers shared between processes
        "lbctl.gslb.datagrams",  # many packets a system call
        "lbctl.gslb.control",  # the loop that publishes
        "lbctl.gslb.crew",  # worker processes
        "lbctl.gslb.geo",  # databases of networks
        "lbctl.gslb.knowledge",  # databases made into tables
        "lbctl.gslb.explain",  # over what `knowledge` read
        "lbctl.gslb.orders",  # drains in a file
        "lbctl.gslb.looks",  # sites' reports, VIPs, external checks
        "lbctl.gslb.eyes",  # the beats of those looks
        "lbctl.gslb.metrics",
        "lbctl.gslb.native",  # the C compiler, and what it built
        "lbctl.gslb.tcp",
        "lbctl.gslb.sockets",
        "lbctl.gslb.worker",
        "lbctl.health.files",  # what probes read
        "lbctl.ha.fence",  # the fence's maps
        "lbctl.ha.loader",  # its programs and hooks
        "lbctl.ha.probe",  # a client, during a drill
        "lbctl.health.privileges",  # capabilities
        "lbctl.health.probes.*",  # sockets of probes
        "lbctl.health.reactor",  # epoll and the probe worker's clock
        "lbctl.health.worker",  # the probe worker's process
        "lbctl.spawner",  # scripts, as other users
        "lbctl.mutualtls",  # certificates and keys
        "lbctl.netlink",  # links, addresses and neighbours
        "lbctl.vrrp.addresses",  # addresses come and go
        "lbctl.vrrp.control",  # the daemon's socket
        "lbctl.vrrp.errand",  # work that must not delay the loop
        "lbctl.vrrp.helper",  # the child that runs hooks and scripts
        "lbctl.vrrp.host",  # one loop over all virtual routers
        "lbctl.vrrp.netlink",  # the macvlan and its addresses
        "lbctl.vrrp.places",  # interfaces by name
        "lbctl.vrrp.realtime",  # scheduling class and locked memory
        "lbctl.vrrp.socketfilter",  # what the kernel lets through
        "lbctl.vrrp.sysctl",  # settings of interfaces, put back at the end
        "lbctl.vrrp.watch",  # news of links
        "lbctl.vrrp.wire",  # the adverts' sockets
    },
    # These wire the rest together.
    "programs": {
        *("lbctl.daemon.*", "lbctl.cli.*", "lbctl.lab.*"),
        *("lbctl.gslb.api", "lbctl.gslb.run"),
        "lbctl.vrrp.run",
    },
}
IMPURE = {
    *("asyncio", "bcc", "logging", "os", "pyroute2", "select", "selectors", "socket"),
    *("subprocess", "threading", "time"),
}
# Libraries that stop at their shell.
OWNERS = {
    "bcc": {"lbctl.dataplane.xdp.compiler"},
    "pyroute2": {"lbctl.netlink", "lbctl.vrrp.netlink"},
    "scapy": set[str](),
    "aiohttp": {"lbctl.daemon.*", "lbctl.gslb.api", "lbctl.gslb.eyes", "lbctl.gslb.looks"},
    "dns": {"lbctl.gslb.zonefile"},
    "click": {"lbctl.cli.*"},
    "maxminddb": {"lbctl.gslb.geo"},
    "prometheus_client": {"lbctl.daemon.*"},
    "pydantic": {"lbctl.config.*"},
    "rich": {"lbctl.cli.*", "lbctl.lab.*"},
    "yaml": {"lbctl.config.*"},
}
# The command line asks the daemon over its socket; of lbctl it knows only the words.
CLI_MAY = {
    *("lbctl", "lbctl.model", "lbctl.errors", "lbctl.messages", "lbctl.said"),
    *("lbctl.cli.*", "lbctl.config.*", "lbctl.stats.*"),
}
# Verbs that are not questions to the daemon, with the only program each may know.
VERBS = {
    "lbctl.cli.daemon": {"lbctl.daemon.run"},
    "lbctl.cli.drill": {"lbctl.vrrp.control", "lbctl.ha.drill"},
    "lbctl.cli.files": {"lbctl.vrrp.realtime", "lbctl.configfile"},
    "lbctl.cli.gslb": {"lbctl.gslb.run"},
    "lbctl.cli.ha": {"lbctl.vrrp.control", "lbctl.ha.drill"},
    "lbctl.cli.lab": {"lbctl.lab.*"},
    "lbctl.cli.vrrp": {"lbctl.vrrp.run"},
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted((ROOT / "lbctl").rglob("*.py"))}


def matches(module: str, name: str) -> bool:
    package = name.removesuffix(".*")
    return module == package or (name != package and module.startswith(package + "."))


def among(module: str, names: set[str]) -> bool:
    return any(matches(module, name) for name in names)


def layer(module: str) -> int | None:
    """The place of its layer in LAYERS, by the longest name that matches."""
    found = [
        (len(name), at)
        for at, names in enumerate(LAYERS.values())
        for name in names
        if matches(module, name)
    ]
    return max(found)[1] if found else None


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and name of everything that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write absolute imports"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node.lineno, inner if inner in FILES else node.module


def of_lbctl(name: str) -> bool:
    return name.partition(".")[0] == "lbctl"


@pytest.mark.parametrize("module", FILES)
def test_a_module_imports_only_what_comes_before_it(module: str) -> None:
    mine = layer(module)
    assert mine is not None, (
        f"{module} is in no list of LAYERS: pure modules go to 'cores', what touches the "
        f"world to 'shells' with a word on what it touches"
    )
    for line, name in imports(FILES[module]):
        where = f"{FILES[module].relative_to(ROOT)}:{line}"
        library = name.partition(".")[0]
        if of_lbctl(name):
            theirs = layer(name)
            assert theirs is None or theirs <= mine, f"{where}: {name} comes after {module}"
        elif list(LAYERS)[mine] in ("nouns", "cores"):
            assert library not in IMPURE, f"{where}: a core imports {library}; is it a shell?"
        if library in OWNERS:
            owners = ", ".join(sorted(OWNERS[library])) or "nobody"
            assert among(module, OWNERS[library]), f"{where}: {library} belongs to {owners}"


def test_the_command_line_talks_to_the_daemon_over_its_socket() -> None:
    for module in filter(lambda name: matches(name, "lbctl.cli.*"), FILES):
        may = CLI_MAY | VERBS.get(module, set())
        for line, name in imports(FILES[module]):
            where = f"{FILES[module].relative_to(ROOT)}:{line}"
            assert not of_lbctl(name) or among(name, may), f"{where}: {name}; ask the daemon"


def test_the_daemon_knows_neither_the_command_line_nor_the_lab() -> None:
    for module in filter(lambda name: matches(name, "lbctl.daemon.*"), FILES):
        for line, name in imports(FILES[module]):
            where = f"{FILES[module].relative_to(ROOT)}:{line}"
            assert not among(name, {"lbctl.cli.*", "lbctl.lab.*"}), f"{where}: {name}"


def test_agents_stand_alone() -> None:
    for path in sorted((ROOT / "agents").rglob("*.py")):
        for line, name in imports(path):
            assert not of_lbctl(name), f"{path.relative_to(ROOT)}:{line}: {name}"


def test_packages_of_pure_modules_are_pure_themselves() -> None:
    """Importing a module runs its parents first."""
    for module in FILES:
        parent = module.rpartition(".")[0]
        if parent:
            mine, above = layer(module), layer(parent)
            if mine is not None and above is not None and mine <= 1:
                assert above <= 1, f"{module} is a core inside {parent}, which is not"


@pytest.mark.parametrize(
    ("module", "found"),
    [
        ("lbctl.world", "cores"),
        ("lbctl.health.worker", "shells"),
        ("lbctl.vrrp.router", "cores"),
        ("lbctl.vrrp.wire", "shells"),
        ("lbctl.daemon", "programs"),
        ("lbctl.daemon.run", "programs"),
        ("lbctl.surprise", None),
        ("lbctl.worldly", None),
    ],
)
def test_the_lists_are_read_as_they_say(module: str, found: str | None) -> None:
    at = layer(module)
    assert (None if at is None else list(LAYERS)[at]) == found
