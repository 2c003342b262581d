"""The section `replication` of a gateway: its line to the other one of the pair."""

from typing import Any, Self

from pydantic import BaseModel, model_validator

from lbctl.config.duration import show_duration
from lbctl.config.fields import Duration
from lbctl.config.gslb_schema import Where
from lbctl.config.strict import STRICT
from lbctl.model import Replication


class ReplicationSection(BaseModel):
    """The line to the other gateway of a pair, over mutual TLS."""

    model_config = STRICT

    listen: Where
    """ADDRESS:PORT of this gateway; best on a network that carries no traffic."""
    peer: Where
    """ADDRESS:PORT of the other gateway's `listen`."""
    name: str
    """The name in the other gateway's certificate."""
    certificate: str
    """PEM file: this gateway's certificate and those between it and the CA."""
    key: str
    """PEM file: its key."""
    ca: str
    """PEM file: who signs the certificates of both."""

    hold: Duration = 10.0
    """After a promotion, how long TCP of flows that nobody remembers is dropped, not reset."""

    @model_validator(mode="after")
    def _two(self) -> Self:
        if self.listen == self.peer:
            raise ValueError(f"peer and listen are both {self.peer} (write the other gateway's)")
        return self


def replication(section: ReplicationSection | None) -> Replication | None:
    """The noun of the section."""
    if section is None:
        return None
    return Replication(
        listen=section.listen,
        peer=section.peer,
        name=section.name,
        certificate=section.certificate,
        key=section.key,
        ca=section.ca,
        hold=section.hold,
    )


def written(one: Replication) -> dict[str, Any]:
    """The section, as `lbctl export` writes it."""
    return {
        "listen": str(one.listen),
        "peer": str(one.peer),
        "name": one.name,
        "certificate": one.certificate,
        "key": one.key,
        "ca": one.ca,
        "hold": show_duration(one.hold),
    }
