"""gdnsd, Knot DNS and PowerDNS with the same zone, names and database as lbctl's.

Each is one process on a loopback port, with one UDP thread, its own scratch directory and
no query log. KR goes to Seoul, JP to Tokyo, DE to Frankfurt, the rest to Seoul.
"""

import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

ADDRESSES = {"seoul": "198.51.100.1", "tokyo": "198.51.100.2", "frankfurt": "198.51.100.3"}
BY_COUNTRY = {"KR": "seoul", "JP": "tokyo", "DE": "frankfurt"}
SOA = "@ SOA ns1.gslb.example. hostmaster.gslb.example. 1 3600 600 86400 60"


def gdnsd(directory, database, names, port):
    (directory / "zones").mkdir(parents=True)
    dcs = ", ".join(ADDRESSES)
    dcmap = ", ".join(f"{site} => {address}" for site, address in ADDRESSES.items())
    (directory / "config").write_text(f"""
options => {{ listen => [127.0.0.1:{port}], udp_threads => 1, tcp_threads => 1,
  edns_client_subnet => true, run_dir => "{directory}/run", state_dir => "{directory}/state" }}
plugins => {{ geoip => {{
  maps => {{ m => {{ geoip2_db => "{database}", datacenters => [{dcs}],
    map => {{ AS => {{ KR => [seoul], JP => [tokyo] }}, EU => {{ DE => [frankfurt] }},
              default => [seoul] }} }} }}
  resources => {{ web => {{ map => m, service_types => up, dcmap => {{ {dcmap} }} }} }} }} }}
""")
    lines = [f"{SOA}", "@ NS ns1", "ns1 A 192.0.2.1"]
    lines += [f"www{i} 60 DYNA geoip!web" for i in range(names)]
    (directory / "zones" / "gslb.example").write_text("\n".join(lines) + "\n")
    return [shutil.which("gdnsd") or "/usr/sbin/gdnsd", "-c", str(directory), "start"]


def knot(directory, database, names, port):
    directory.mkdir(parents=True)
    lines = ["$ORIGIN gslb.example.", "$TTL 60", SOA, "@ NS ns1", "ns1 A 192.0.2.1"]
    lines += [f"www{i} A {ADDRESSES['seoul']}" for i in range(names)]
    (directory / "zone").write_text("\n".join(lines) + "\n")
    rules = []
    for i in range(names):
        rules.append(f"www{i}.gslb.example:")
        rules += [f"  - geo: \"{country}\"\n    A: {ADDRESSES[site]}"
                  for country, site in BY_COUNTRY.items()]  # fmt: skip
    (directory / "geo.conf").write_text("\n".join(rules) + "\n")
    (directory / "knot.conf").write_text(f"""
server:
    rundir: {directory}
    listen: 127.0.0.1@{port}
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
    edns-client-subnet: on
database:
    storage: {directory}
mod-geoip:
  - id: geo
    config-file: {directory}/geo.conf
    ttl: 60
    mode: geodb
    geodb-file: {database}
    geodb-key: [country/iso_code]
zone:
  - domain: gslb.example
    file: {directory}/zone
    module: mod-geoip/geo
""")
    return ["/usr/sbin/knotd", "-c", str(directory / "knot.conf")]


def pdns(directory, database, names, port):
    directory.mkdir(parents=True)
    services = "\n".join(
        f"      www{i}.gslb.example:\n"
        f"        default: [ '%cc.geo.gslb.example', 'other.geo.gslb.example' ]"
        for i in range(names)
    )
    # One static record per country code, and services that format the code into a name.
    records = "\n".join(
        f"      {country.lower()}.geo.gslb.example:\n        - a: {ADDRESSES[site]}"
        for country, site in {**BY_COUNTRY, "other": "seoul"}.items()
    )
    (directory / "geo.yaml").write_text(f"""
domains:
  - domain: gslb.example
    ttl: 60
    records:
      gslb.example:
        - soa: ns1.gslb.example hostmaster.gslb.example 1 3600 600 86400 60
        - ns: ns1.gslb.example
{records}
    services:
{services}
""")
    (directory / "pdns.conf").write_text(f"""
launch=geoip
geoip-database-files=mmdb:{database}
geoip-zones-file={directory}/geo.yaml
edns-subnet-processing=yes
local-address=127.0.0.1
local-port={port}
socket-dir={directory}
receiver-threads=1
distributor-threads=1
cache-ttl=0
query-cache-ttl=0
negquery-cache-ttl=0
daemon=no
guardian=no
setuid=
setgid=
""")
    return ["/usr/sbin/pdns_server", f"--config-dir={directory}"]


@contextmanager
def running(command, log, port):
    """The server as a child, once it answers on `port`."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        _wait(process, port, log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


PROBE = b"\0\1\0\0\0\1\0\0\0\0\0\0\3ns1\4gslb\7example\0\0\1\0\1"


def _wait(process, port, log):
    deadline = time.monotonic() + 20
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("127.0.0.1", port))
        probe.settimeout(0.2)
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            try:
                probe.send(PROBE)
                probe.recv(512)
            except OSError:
                continue
            return
    raise RuntimeError(f"{process.args[0]} does not answer:\n{log.read_text()[-2000:]}")
