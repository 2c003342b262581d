"""Daemons of the labs' gateways."""

import json

from lbctl.lab import eventually
from lbctl.lab.lab import GatewayHost, Process


def answering(gateway: GatewayHost) -> Process:
    """One that has begun to answer, with `config`'s file."""
    daemon = gateway.daemon()
    status = ["get", "status"]
    eventually(lambda: gateway.lbctl(*status, check=False).returncode == 0, timeout=60)
    return daemon


def states(gateway: GatewayHost) -> dict[str, str]:
    """Of the servers of `web`, by name."""
    rows = json.loads(gateway.lbctl("get", "servers", "web", "-j").stdout)
    return {row["name"].partition("/")[2]: row["state"] for row in rows}
