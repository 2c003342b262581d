"""The section `api` of a gateway: its API for other machines, off where it is not written."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from lbctl.config.fields import File
from lbctl.config.gslb_schema import Where
from lbctl.config.strict import STRICT
from lbctl.model import ApiListener


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


CertificateName = Annotated[str, Field(pattern=r"^[!-~]+$", max_length=253)]
CertificateNames = Annotated[
    list[CertificateName], BeforeValidator(_listed, json_schema_input_type=str | list[str])
]


class ListenerSection(BaseModel):
    """The API over TCP and mutual TLS; asking only, nothing can be changed by it."""

    model_config = STRICT

    listen: Where
    """ADDRESS:PORT."""
    certificate: File
    """PEM file: this gateway's certificate and those between it and the CA."""
    key: File
    """PEM file: its key."""
    ca: File
    """PEM file: who signs the certificates of those who ask."""
    read: CertificateNames = []
    """Names in certificates whose holders may ask whatever can be asked."""
    peer: CertificateNames = []
    """Names in certificates whose holders may ask how the site does, and nothing else."""

    @model_validator(mode="after")
    def _somebody(self) -> Self:
        if not self.read and not self.peer:
            raise ValueError("lets nobody ask anything (write read or peer: [CERTIFICATE NAME])")
        return self


def listener(section: ListenerSection | None) -> ApiListener | None:
    """The noun of the section."""
    if section is None:
        return None
    return ApiListener(
        listen=section.listen,
        certificate=section.certificate,
        key=section.key,
        ca=section.ca,
        read=tuple(section.read),
        peer=tuple(section.peer),
    )


def written(one: ApiListener) -> dict[str, Any]:
    """The section, as `lbctl export` writes it."""
    names = {"read": list(one.read), "peer": list(one.peer)}
    files = {"certificate": one.certificate, "key": one.key, "ca": one.ca}
    return {"listen": str(one.listen), **files, **{k: v for k, v in names.items() if v}}
