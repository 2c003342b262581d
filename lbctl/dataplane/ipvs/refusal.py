"""What the kernel's errno means for an operation, and what mends it."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from lbctl.dataplane.ipvs.genl import Garbled
from lbctl.dataplane.port import AddServer, AddService, Op, SetService
from lbctl.errors import DataPlaneError, NotPermitted
from lbctl.model import VirtualService


def explain(op: Op, number: int) -> DataPlaneError:
    """number: an errno that the kernel answered `op` with."""
    if number == errno.ENOENT and isinstance(op, AddService | SetService):
        return _no_module(op, op.service)
    if number == errno.EINVAL and isinstance(op, AddServer):
        # ip_vs_new_dest() wants a unicast or local address; a namespace in which no
        # interface has an address yet takes none for that.
        hint = "is the server's address a unicast one, and has this gateway an address?"
        return DataPlaneError(f"{op}: Invalid argument", hint)
    cause, hint = _MEANINGS.get(number, (os.strerror(number), ""))
    return DataPlaneError(f"{op}: {cause}", hint)


_MEANINGS = {
    errno.ENOENT: ("No such destination", "another tool removed it"),
    errno.ESRCH: ("No such service", "another tool removed it, or it was refused"),
    errno.EEXIST: ("File exists", "another tool made it: `ipvsadm -Ln` shows it"),
    errno.EPERM: ("Operation not permitted", "it needs CAP_NET_ADMIN: run it as root"),
}


def _no_module(op: Op, service: VirtualService) -> DataPlaneError:
    """The kernel looked for a module and found none; it does not say which."""
    scheduler = service.scheduler.name
    modules = [f"ip_vs_{scheduler}"]
    what = f"scheduler '{scheduler}' (module ip_vs_{scheduler})"
    if service.persistence and service.persistence.engine:
        engine = service.persistence.engine
        modules.append(f"ip_vs_pe_{engine}")
        what += f", or no persistence engine '{engine}' (module ip_vs_pe_{engine})"
    hint = f"`modprobe {' '.join(modules)}` must work, or choose another"
    return DataPlaneError(f"{op}: this kernel has no {what}", hint)


def foreign(op: Op, what: str) -> DataPlaneError:
    """`op` would touch an object that another tool made."""
    hint = "lbctl leaves it alone: remove it with ipvsadm, or give it another address"
    return DataPlaneError(f"{op}: File exists: {what} is another tool's", hint)


@contextmanager
def explained(attempt: str) -> Iterator[None]:
    """The kernel's refusal of a request that is about no single operation."""
    try:
        yield
    except PermissionError:
        raise NotPermitted(f"IPVS: cannot {attempt}: not permitted", "run it as root") from None
    except OSError as error:
        raise DataPlaneError(f"IPVS: cannot {attempt}: {error.strerror}") from None
    except Garbled as error:
        raise DataPlaneError(f"IPVS: cannot {attempt}: the kernel sent {error}") from None
