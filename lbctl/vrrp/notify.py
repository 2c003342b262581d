"""How a notify command is called."""

import shlex

from lbctl.messages import Role
from lbctl.model import Notify

_KEEPALIVED = {
    Role.ACTIVE: "MASTER",
    Role.BACKUP: "BACKUP",
    Role.FAULT: "FAULT",
    Role.INITIALIZE: "STOP",
}


def arguments(notify: Notify, name: str, role: Role, priority: int, reason: str) -> tuple[str, ...]:
    """The command with ROUTER ROLE REASON, or with keepalived's arguments."""
    argv = shlex.split(notify.command)
    if notify.keepalived:
        return (*argv, "INSTANCE", name, _KEEPALIVED[role], str(priority))
    return (*argv, name, str(role), reason)
