"""Daemons of the labs' gateways."""

from lbctl.lab import eventually
from lbctl.lab.lab import GatewayHost, Process


def answering(gateway: GatewayHost) -> Process:
    """One that has begun to answer, with `config`'s file."""
    daemon = gateway.daemon()
    status = ["get", "status"]
    eventually(lambda: gateway.lbctl(*status, check=False).returncode == 0, timeout=60)
    return daemon
