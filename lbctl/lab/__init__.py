"""Labs of network namespaces: a client, gateways, servers with real nginx."""

from lbctl.lab.kernel import LabError
from lbctl.lab.lab import GatewayHost, Host, Lab, Process
from lbctl.lab.topology import Role, Topology, standard
from lbctl.lab.waiting import NeverHappened, eventually

__all__ = [
    "GatewayHost",
    "Host",
    "Lab",
    "LabError",
    "NeverHappened",
    "Process",
    "Role",
    "Topology",
    "eventually",
    "standard",
]
