"""The text of what machines are given: pure."""

from lbctl.lab.file import Care, Pair, gateway_file
from lbctl.lab.topology import HTTP, Host, Nic, Role, Topology
from vagrant.settings import Settings

CREDENTIALS = "/etc/lbctl/pair"
RESTORE = "/usr/local/sbin/restore-server"
RESTORED_AFTER = 7.5  # seconds down, with KVM; the test stops nginx for less
# What an emulated machine can keep up with; a real one could do with a tenth.
CHECK = "interval: 2s, timeout: 2s, fast_interval: 1s"
AGENT = (
    "agent:",
    "  speaks: lbctl",
    "  interval: 4s",
    "  timeout: 4s",
    f"  tls: {{ca: {CREDENTIALS}/ca.pem, cert: {CREDENTIALS}/gateway.pem,"
    f" key: {CREDENTIALS}/gateway.pem}}",
    "overload: {cpu: {soft: 70%, hard: 85%, back: 60%}, memory: none, disk: none, hold: 5s}",
)


def gateway_yaml(settings: Settings, topology: Topology, datapath: str) -> str:
    """The file of both gateways."""
    hook = (
        "on_down:",
        f"  run: [{RESTORE}]",
        f"  delay: {max(10, int(RESTORED_AFTER * settings.patience))}s",
        "  cooldown: 60s",
        f"  timeout: {int(60 * settings.patience)}s",
    )
    care = Care(CHECK, (*AGENT, *hook))
    pair = Pair(settings.interval, CREDENTIALS)
    # IPVS hashes a client's port only if it is told to; XDP always does.
    scheduler = "mh mh-port" if datapath == "ipvs" else "mh"
    return gateway_file(topology, datapath, scheduler, pair, care)


def link_file(nic: Nic) -> str:
    """systemd.link(5): the name; and no checksums left to hardware that is not there, as in
    the lab of namespaces (lbctl/lab/kernel.py says why)."""
    return (
        f"[Match]\nPermanentMACAddress={nic.mac}\n\n"
        f"[Link]\nName={nic.name}\nTransmitChecksumOffload=no\n"
        "TCPSegmentationOffload=no\nTCP6SegmentationOffload=no\n"
    )


def network_file(host: Host, nic: Nic) -> str:
    """systemd.network(5). Addresses that lbctl adds are left alone."""
    lines = ["[Match]", f"Name={nic.name}", "", "[Network]", "LinkLocalAddressing=no"]
    lines += ["IPv6AcceptRA=no", "KeepConfiguration=yes"]
    lines += [f"Address={address}" for address in nic.addresses]
    if nic is host.nics[0]:
        for route in host.routes:
            to = "0.0.0.0/0" if route.to == "default" else route.to
            lines += ["", "[Route]", f"Destination={to}", f"Gateway={route.via}"]
    return "\n".join([*lines, ""])


def nginx_file(name: str) -> str:
    """As in the lab of namespaces: who answers is in body and header."""
    return f"""\
user www-data;
worker_processes 1;
pid /run/nginx.pid;
error_log /var/log/nginx/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 100000;
    keepalive_timeout 600s;
    default_type text/plain;
    server {{
        listen {HTTP};
        add_header X-Server {name} always;
        location / {{ return 200 "{name}\\n"; }}
    }}
}}
"""


def agent_environment() -> str:
    return (
        'ARGUMENTS="--cert /etc/lbctl-agent/agent.pem --ca /etc/lbctl-agent/ca.pem'
        ' --words /etc/lbctl-agent/words"\n'
    )


def servers(topology: Topology) -> list[str]:
    return [host.name for host in topology.having(Role.SERVER)]
