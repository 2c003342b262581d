"""One table in four languages: the data path's, lbctl's file, ipvsadm's and keepalived's."""

from ipaddress import IPv4Address, IPv4Network

from lbctl.model import Destination, Endpoint, Listen, Proto, Scheduler, Table, VirtualService

SERVICES, SERVERS = 1000, 10
FIRST_VIP = IPv4Address("198.18.0.1")
SERVER_NET = IPv4Network("198.19.0.0/16")
FIRST_SERVER = IPv4Address("198.19.0.1")
CHECKED = 600  # seconds between two checks of a server; seldom, so that no time goes by with them
PLACES = (0, SERVICES // 2, SERVICES - 1)  # services of which one weight is changed


def table(weight=1, place=0):
    """weight: of the first server of service number `place`; all others have 1."""
    services = {}
    for number in range(SERVICES):
        servers = {
            Endpoint(FIRST_SERVER + number * SERVERS + n, 80): Destination(
                weight if (number, n) == (place, 0) else 1
            )
            for n in range(SERVERS)
        }
        listen = Listen(FIRST_VIP + number, 80, Proto.TCP)
        services[listen] = VirtualService(Scheduler("wrr"), servers)
    return Table(services)


def rules(held):
    """For `ipvsadm -R`."""
    lines = []
    for listen, service in held.services.items():
        lines.append(f"-A -t {listen.endpoint} -s {service.scheduler.name}\n")
        lines += [
            f"-a -t {listen.endpoint} -r {endpoint} -m -w {one.weight}\n"
            for endpoint, one in service.destinations.items()
        ]
    return "".join(lines)


def file(held, checked=False):
    """lbctl.yaml: only the table, or with a TCP check of each server."""
    check = f"{{type: tcp, interval: {CHECKED}s, fast_interval: {CHECKED}s}}"
    parts = ["apiVersion: lbctl/v1\ngateway: {front: lo, datapath: ipvs}\n"]
    parts.append(f"defaults: {{check: {check if checked else 'none'}, vip: external}}\nservices:\n")
    for number, (listen, service) in enumerate(held.services.items()):
        parts.append(f"  s{number}:\n    listen: {listen}\n")
        parts.append(f"    scheduler: {service.scheduler}\n    servers:\n")
        parts += [
            f"      a{n}: {{address: '{endpoint}', weight: {one.weight}}}\n"
            for n, (endpoint, one) in enumerate(service.destinations.items())
        ]
    return "".join(parts)


def keepalived(held, checked=False):
    """keepalived.conf: only the table, or with a TCP check of each server."""
    check = "    TCP_CHECK {\n      connect_timeout 1\n    }\n" if checked else ""
    parts = ["global_defs {\n  router_id bench\n}\n"]
    for listen, service in held.services.items():
        parts.append(f"virtual_server {listen.address} {listen.port} {{\n")
        parts.append(f"  delay_loop {CHECKED}\n")
        parts.append(f"  lvs_sched {service.scheduler.name}\n  lvs_method NAT\n  protocol TCP\n")
        parts += [
            f"  real_server {endpoint.address} {endpoint.port} {{\n"
            f"    weight {one.weight}\n{check}  }}\n"
            for endpoint, one in service.destinations.items()
        ]
        parts.append("}\n")
    return "".join(parts)
