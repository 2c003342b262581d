"""What an agent said of its server: the one shape for all that agents speak."""

from collections.abc import Iterator
from typing import Literal

import msgspec

from lbctl.model import Metric


class Report(msgspec.Struct, frozen=True):
    """What an agent said of its server; what it did not speak of is None.

    cpu, memory, disk: shares in use. percent, admin, state: the words of HAProxy's
    agent-check; they hold until others of their kind are said (HAProxy, 5.2 `agent-check`).
    """

    cpu: float | None = None
    memory: float | None = None
    disk: float | None = None
    percent: int | None = None
    admin: Literal["ready", "drain", "maint"] | None = None
    state: Literal["up", "down"] | None = None
    reason: str = ""
    connections: int | None = None

    def after(self, earlier: "Report | None") -> "Report":
        """This report on top of an earlier one: words that were not repeated still hold."""
        if earlier is None:
            return self
        return msgspec.structs.replace(
            self,
            percent=earlier.percent if self.percent is None else self.percent,
            admin=earlier.admin if self.admin is None else self.admin,
            state=earlier.state if self.state is None else self.state,
            reason=earlier.reason if self.state is None and self.admin is None else self.reason,
        )

    def rounded(self) -> "Report":
        """To the per cent: what is told and kept, so that noise is no news."""
        shares = {str(metric): round(share, 2) for metric, share in self.measures()}
        return msgspec.structs.replace(self, **shares)

    def share(self, metric: Metric) -> float | None:
        match metric:
            case Metric.CPU:
                return self.cpu
            case Metric.MEMORY:
                return self.memory
            case Metric.DISK:
                return self.disk

    def measures(self) -> Iterator[tuple[Metric, float]]:
        for metric in Metric:
            if (share := self.share(metric)) is not None:
                yield metric, share

    @property
    def words(self) -> str:
        """What it wants of its server."""
        said: list[str] = [word for word in (self.admin, self.state) if word]
        said += [f"{self.percent}%"] if self.percent is not None else []
        return " ".join(said) + (f" ({self.reason})" if self.reason else "")

    def __str__(self) -> str:
        said = [f"{metric} {percent(share)}" for metric, share in self.measures()]
        return ", ".join(said + ([self.words] if self.words else []))


def percent(share: float) -> str:
    return f"{share * 100:.0f} %"
