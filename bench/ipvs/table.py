"""One table in four languages: the data path's, lbctl's file, ipvsadm's and keepalived's."""

from ipaddress import IPv4Address

from lbctl.model import Destination, Endpoint, Listen, Proto, Scheduler, Table, VirtualService

SERVICES, SERVERS = 1000, 10
FIRST_VIP = IPv4Address("198.18.0.1")
FIRST_SERVER = IPv4Address("198.19.0.1")
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


def file(held):
    """lbctl.yaml, without checks: only the table."""
    parts = ["apiVersion: lbctl/v1\ngateway: {front: lo, datapath: ipvs}\n"]
    parts.append("defaults: {check: none, vip: external}\nservices:\n")
    for number, (listen, service) in enumerate(held.services.items()):
        parts.append(f"  s{number}:\n    listen: {listen}\n")
        parts.append(f"    scheduler: {service.scheduler}\n    servers:\n")
        parts += [
            f"      a{n}: {{address: '{endpoint}', weight: {one.weight}}}\n"
            for n, (endpoint, one) in enumerate(service.destinations.items())
        ]
    return "".join(parts)


def keepalived(held):
    """keepalived.conf, without checks: only the table."""
    parts = ["global_defs {\n  router_id bench\n}\n"]
    for listen, service in held.services.items():
        parts.append(f"virtual_server {listen.address} {listen.port} {{\n  delay_loop 60\n")
        parts.append(f"  lvs_sched {service.scheduler.name}\n  lvs_method NAT\n  protocol TCP\n")
        parts += [
            f"  real_server {endpoint.address} {endpoint.port} {{\n    weight {one.weight}\n  }}\n"
            for endpoint, one in service.destinations.items()
        ]
        parts.append("}\n")
    return "".join(parts)
