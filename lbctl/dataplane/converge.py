"""Bring a data path to a table, as far as it lets us."""

from dataclasses import dataclass

from lbctl.dataplane.plan import plan
from lbctl.dataplane.port import DataPlane, Op, Refusal
from lbctl.model import Table


@dataclass(frozen=True, slots=True)
class Report:
    """What was asked, and what of it was refused."""

    asked: tuple[Op, ...] = ()
    refused: tuple[Refusal, ...] = ()

    @property
    def applied(self) -> tuple[Op, ...]:
        refused = {id(refusal.op) for refusal in self.refused}
        return tuple(op for op in self.asked if id(op) not in refused)


def converge(plane: DataPlane, desired: Table, observed: Table | None = None) -> Report:
    """Bring `plane` to `desired`.

    observed: what the plane is known to hold; read back from it if not given. A server
    whose service was refused is refused with it, by the plane.
    """
    ops = plan(desired, plane.observe() if observed is None else observed)
    return Report(tuple(ops), tuple(plane.apply(ops)) if ops else ())
