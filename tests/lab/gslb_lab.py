"""Three sites, a CDN, a resolver and clients, each in a namespace, on one switch.

    seoul, tokyo, frankfurt   nginx on the site's address, and a GSLB server that observes;
                              in Tokyo a gateway's daemon too, which is asked for its site
    cdn                       nginx; an external site, judged by its own check
    resolver                  unbound with subnetcache
    clients                   an address at each provider

Documentation addresses only; the lab's own databases give them to countries, cities and
providers. Everything is named after this process and removed by name.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import trustme
from mmdb_writer import MMDBWriter
from netaddr import IPSet

SITES = {"seoul": "198.51.100.1", "tokyo": "198.51.100.2", "frankfurt": "198.51.100.3"}
API = {"seoul": 8443, "tokyo": 9443, "frankfurt": 8443}  # Tokyo's is its gateway's daemon
SERVER = "198.51.100.22"  # behind Tokyo's gateway
CDN, RESOLVER = "203.0.113.9", "198.18.0.53"
CLIENTS = {
    "kt": ("198.18.1.10", 4766, "KR", "Seoul", 37.57, 126.98),
    "skb": ("198.18.2.10", 9318, "KR", "Busan", 35.18, 129.08),
    "lgu": ("198.18.3.10", 3786, "KR", "Seoul", 37.57, 126.98),
    "ntt": ("198.18.4.10", 2914, "JP", "Tokyo", 35.68, 139.69),
    "dtag": ("198.18.5.10", 3320, "DE", "Berlin", 52.52, 13.40),
}
CONTINENTS = {"KR": "AS", "JP": "AS", "DE": "EU"}
TTL = 2

CONFIG = """\
apiVersion: lbctl/v1
gateway: {{front: eth0}}
gslb:
  listen: {address}:53
  processes: 1
  identity: {me}
  databases: {{city: city.mmdb, asn: asn.mmdb}}
  api: {{listen: "{address}:8443", certificate: {me}.pem, key: {me}.key, ca: ca.pem}}
  observers:
    silent_after: 3s
    peers:
{peers}
  measure: {{198.18.2.0/24: "{resolver}:53"}}
  sites:
{sites}
    cdn: {{probe: {{type: http, target: {cdn}:80, interval: 300ms, timeout: 200ms, fall: 2}}}}
  policies:
    geo:
      steps: [healthy, asn: {{9318: [tokyo, seoul]}}, country: {{KR: seoul, JP: tokyo}}, nearest,
              failover]
    city:
      steps: [healthy, city: {{KR/Seoul: seoul, KR/Busan: tokyo}}, nearest, failover]
    cdn-first:
      steps: [healthy, continent: {{EU: cdn, AS: cdn}}, failover]
    load:
      steps: [healthy, country: {{JP: tokyo}}, failover, spill: {{low: 0.5, high: 0.8}}]
    near:
      steps: [healthy, measured, failover]
  zones:
    gslb.example:
      file: gslb.zone
      names:
        www: {{policy: geo, ttl: {ttl}, members: {members}}}
        city: {{policy: city, ttl: {ttl}, members: {members}}}
        load: {{policy: load, ttl: {ttl}, members: {members}}}
        near: {{policy: near, ttl: {ttl}, members: {members}}}
        service:
          policy: geo
          ttl: {ttl}
          members: {{seoul: 198.51.100.1, tokyo: {{addresses: 198.51.100.2, service: web}}}}
        img:
          policy: cdn-first
          ttl: {ttl}
          members: {{seoul: 198.51.100.1, tokyo: 198.51.100.2, cdn: {{cname: edge.cdn.example}}}}
    cdn.example: {{file: cdn.zone}}
"""
GATEWAY = """\
apiVersion: lbctl/v1
gateway:
  front: eth0
  api: {{listen: "{address}:9443", certificate: "{directory}/tokyo.pem",
        key: "{directory}/tokyo.key", ca: "{directory}/ca.pem", peer: [seoul, tokyo, frankfurt]}}
services:
  web:
    listen: 198.51.100.2:80/tcp
    vip: external
    check: {{type: tcp, interval: 200ms, fast_interval: 100ms}}
    servers: {{app: "198.51.100.22:8080"}}
"""
ZONE = """$TTL 60
@ SOA ns1 hostmaster 1 3600 600 86400 2
@ NS ns1
ns1 A 198.51.100.1
"""
UNBOUND = """\
server:
  directory: "{directory}"
  username: ""
  chroot: ""
  pidfile: "{directory}/unbound.pid"
  use-syslog: no
  interface: {resolver}
  access-control: 198.18.0.0/15 allow
  module-config: "subnetcache iterator"
  send-client-subnet: 198.51.100.0/24
  client-subnet-always-forward: yes
  do-ip6: no
  qname-minimisation: no
  infra-cache-min-rtt: 50
  infra-cache-max-rtt: 500
stub-zone:
  name: gslb.example
{stubs}
stub-zone:
  name: cdn.example
{stubs}
remote-control:
  control-enable: no
"""
NGINX = """\
daemon off; master_process off; worker_processes 1; pid {directory}/{pid}.pid;
error_log stderr error;
events {{ worker_connections 256; }}
http {{ access_log off; client_body_temp_path {directory}/b-{pid};
  proxy_temp_path {directory}/p-{pid}; fastcgi_temp_path {directory}/f-{pid};
  uwsgi_temp_path {directory}/u-{pid}; scgi_temp_path {directory}/s-{pid};
  server {{ listen {address}; location / {{ return 200 "{name}\\n"; }} }} }}
"""


class Failed(AssertionError):
    """A command on a host ended with an error: "not yet", for whoever waits."""


class GslbLab:
    """The lab, up. Processes by `host/what`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.prefix = f"lbg{os.getpid()}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def namespace(self, host: str) -> str:
        return f"{self.prefix}-{host}"

    def run(self, host: str, *command: str, check: bool = True, timeout: float = 20) -> str:
        """Run a command on `host`; return its output."""
        enter = ["nsenter", f"--net=/run/netns/{self.namespace(host)}"]
        done = subprocess.run([*enter, *command], capture_output=True, text=True,
                              timeout=timeout, check=False)  # fmt: skip
        if check and done.returncode:
            raise Failed(f"{host}: {' '.join(command)}: {done.stderr or done.stdout}")
        return done.stdout

    def start(self, host: str, what: str, *command: str) -> None:
        """Start a process on `host` that the lab ends."""
        enter = ["nsenter", f"--net=/run/netns/{self.namespace(host)}"]
        with (self.directory / f"{host}-{what}.log").open("ab") as log:
            self.processes[f"{host}/{what}"] = subprocess.Popen(
                [*enter, *command], stdout=log, stderr=log, cwd=self.directory
            )

    def stop(self, host: str, what: str) -> None:
        process = self.processes.pop(f"{host}/{what}")
        process.kill()
        process.wait()

    def stop_host(self, host: str) -> None:
        """As if the site lost its power."""
        for name in [name for name in self.processes if name.startswith(f"{host}/")]:
            self.stop(*name.split("/"))

    def lbctl(self, site: str, *verb: str, timeout: float = 60) -> str:
        """`lbctl gslb VERB` on a site's GSLB server."""
        socket = self.directory / f"run-{site}" / "gslb.sock"
        command = [sys.executable, "-m", "lbctl.cli.main", "gslb", f"--gslb-socket={socket}"]
        return self.run(site, *command, *verb, timeout=timeout)

    def feed(self, site: str, **word: object) -> None:
        """What an agent at a site tells its GSLB server."""
        socket = self.directory / f"run-{site}" / "gslb.sock"
        self.run(site, "curl", "-sf", "--unix-socket", str(socket), "-d", json.dumps(word),
                 "http://gslb/v1/gslb/feed")  # fmt: skip

    def resolve(self, name: str, client: str) -> list[str]:
        """What unbound tells a client, addresses and aliases."""
        return self._dig("clients", f"@{RESOLVER}", "-b", CLIENTS[client][0], name)

    def ask(self, site: str, name: str, subnet: str) -> list[str]:
        """What a site's own server says for a subnet."""
        return self._dig("clients", f"@{SITES[site]}", "-b", CLIENTS["kt"][0], name, "+norec",
                         f"+subnet={subnet}")  # fmt: skip

    def _dig(self, host: str, *arguments: str) -> list[str]:
        words = ["dig", "+short", "+time=5", "+tries=3", *arguments]
        lines = self.run(host, *words, check=False).split()
        return [line for line in lines if not line.startswith(";")]

    def fetch(self, address: str, client: str) -> str:
        """GET / from a site's nginx; "" if it failed."""
        return self.run("clients", "curl", "-s", "-m", "2", "--interface", CLIENTS[client][0],
                        f"http://{address}/", check=False).strip()  # fmt: skip

    # --- making and removing ------------------------------------------------------------

    def up(self) -> None:
        self._network()
        self._files()
        for site, address in SITES.items():
            self._nginx(site, f"{address}:80")
            self.serve(site)
        self.gateway()
        self._nginx("cdn", f"{CDN}:80")
        self.start("resolver", "unbound", shutil.which("unbound") or "unbound", "-d", "-c",
                   str(self.directory / "unbound.conf"))  # fmt: skip

    def serve(self, site: str) -> None:
        """Start a site's GSLB server."""
        self.start(
            site, "gslb", sys.executable, "-m", "lbctl.cli.main", "gslb", "serve",
            "--config", str(self.directory / f"{site}.yaml"), "--me", site,
            "--runtime", str(self.directory / f"run-{site}"),
            *(["--daemon", str(self.directory / "daemon.sock")] if site == "tokyo" else []),
        )  # fmt: skip

    def gateway(self) -> None:
        """Tokyo's gateway: a daemon that checks a server. Its data path is not the point
        here, so it is the fake one; the server answers on the VIP itself."""
        self._nginx("tokyo", f"{SERVER}:8080", "app")
        self.start(
            "tokyo", "daemon", sys.executable, "-m", "lbctl.cli.main",
            "--socket", str(self.directory / "daemon.sock"), "daemon",
            "--config", str(self.directory / "gateway.yaml"), "--datapath", "fake",
            "--state", str(self.directory / "state"),
        )  # fmt: skip

    def _nginx(self, host: str, address: str, name: str = "nginx") -> None:
        path = self.directory / f"{host}-{name}.conf"
        values = {"directory": self.directory, "name": host, "address": address}
        path.write_text(NGINX.format(**values, pid=f"{host}-{name}"))
        self.start(host, name, "nginx", "-c", str(path), "-e", "stderr")

    def _network(self) -> None:
        _ip("netns", "add", self.namespace("switch"))
        self.run("switch", "ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0")
        self.run("switch", "ip", "link", "set", "br0", "up")
        addresses = {host: [address] for host, address in SITES.items()}
        addresses["tokyo"].append(SERVER)
        addresses |= {"cdn": [CDN], "resolver": [RESOLVER]}
        addresses["clients"] = [client[0] for client in CLIENTS.values()]
        for number, (host, own) in enumerate(addresses.items()):
            self._host(number, host, own)

    def _host(self, number: int, host: str, addresses: Sequence[str]) -> None:
        name = self.namespace(host)
        _ip("netns", "add", name)
        self.run("switch", "ip", "link", "add", f"p{number}", "type", "veth", "peer", "name",
                 "eth0", "netns", name)  # fmt: skip
        self.run("switch", "ip", "link", "set", f"p{number}", "master", "br0", "up")
        self.run(host, "ip", "link", "set", "lo", "up")
        self.run(host, "ip", "link", "set", "eth0", "up")
        for address in addresses:
            self.run(host, "ip", "address", "add", f"{address}/32", "dev", "eth0")
        for network in ("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"):
            self.run(host, "ip", "route", "add", network, "dev", "eth0")

    def _files(self) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.directory / "ca.pem"))
        for site in SITES:
            issued = authority.issue_cert(site)
            (self.directory / f"{site}.pem").write_bytes(
                b"".join(blob.bytes() for blob in issued.cert_chain_pems)
            )
            issued.private_key_pem.write_to_path(str(self.directory / f"{site}.key"))
            (self.directory / f"{site}.yaml").write_text(config(site))
        (self.directory / "gateway.yaml").write_text(
            GATEWAY.format(address=SITES["tokyo"], directory=self.directory)
        )
        (self.directory / "gslb.zone").write_text(ZONE)
        (self.directory / "cdn.zone").write_text(ZONE + f"edge A {CDN}\n")
        write_databases(self.directory)
        stubs = "\n".join(f"  stub-addr: {address}" for address in SITES.values())
        (self.directory / "unbound.conf").write_text(
            UNBOUND.format(directory=self.directory, resolver=RESOLVER, stubs=stubs)
        )

    def down(self) -> None:
        for name in list(self.processes):
            self.stop(*name.split("/"))
        for path in Path("/run/netns").glob(f"{self.prefix}-*"):
            _ip("netns", "delete", path.name)


def config(site: str) -> str:
    """The file of one site's server."""
    peers = "\n".join(
        f"      {name}: {{api: '{address}:8443', name: {name}}}" for name, address in SITES.items()
    )
    where = {"seoul": "[37.57, 126.98]", "tokyo": "[35.68, 139.69]", "frankfurt": "[50.11, 8.68]"}
    sites = "\n".join(
        f"    {name}: {{location: {where[name]}, gateways: "
        f"[{{api: '{address}:{API[name]}', name: {name}}}], vips: '{address}:80/tcp'}}"
        for name, address in SITES.items()
    )
    members = "{" + ", ".join(f"{name}: {address}" for name, address in SITES.items()) + "}"
    return CONFIG.format(
        address=SITES[site],
        resolver=RESOLVER,
        me=site,
        peers=peers,
        sites=sites,
        cdn=CDN,
        ttl=TTL,
        members=members,
    )


def write_databases(directory: Path, *, move_kt_to: str = "KR") -> None:
    """The lab's databases. They are replaced whole, as an updater would."""
    city = MMDBWriter(4, "GeoLite2-City")
    asn = MMDBWriter(4, "GeoLite2-ASN")
    for name, (address, number, code, town, latitude, longitude) in CLIENTS.items():
        network = IPSet([f"{address.rsplit('.', 1)[0]}.0/24"])
        country = move_kt_to if name == "kt" else code
        city.insert_network(
            network,
            {
                "country": {"iso_code": country},
                "continent": {"code": CONTINENTS[country]},
                "city": {"names": {"en": town}},
                "location": {"latitude": latitude, "longitude": longitude},
            },
        )
        asn.insert_network(network, {"autonomous_system_number": number})
    for writer, name in ((city, "city"), (asn, "asn")):
        fresh = directory / f"{name}.new"
        writer.to_db_file(str(fresh))
        fresh.replace(directory / f"{name}.mmdb")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def gslb_lab(directory: Path) -> Iterator[GslbLab]:
    """A lab while in the context."""
    lab = GslbLab(directory)
    try:
        lab.up()
        yield lab
    finally:
        lab.down()
