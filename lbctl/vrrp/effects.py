"""What a virtual router wants done, in the order in which it must happen."""

from dataclasses import dataclass
from enum import StrEnum

from lbctl.messages import Role
from lbctl.model import ChecksumForm
from lbctl.vrrp.packet import Advert


@dataclass(frozen=True, slots=True)
class Take:
    """Answer for the virtual addresses: exactly those now configured."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Answer for them no longer."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send `advert`. lease: seconds for which the peers will wait for the next one, counted
    from before the sending."""

    advert: Advert
    form: ChecksumForm
    lease: float


@dataclass(frozen=True, slots=True)
class Announce:
    """Gratuitous ARP, unsolicited neighbour advertisement, for each address."""


@dataclass(frozen=True, slots=True)
class Change:
    """The role changed."""

    role: Role
    reason: str


class Notice(StrEnum):
    """What is told beside changes of role."""

    TWO_ACTIVES = "two_actives"
    HEALED = "healed"
    LATE = "late_sender"
    CHECKSUM = "checksum_form"
    ADDRESSES = "address_list"
    PRIORITY = "priority"
    HAND_OVER = "hand_over"
    UNFENCED = "unfenced"
    UNSENT = "unsent"


@dataclass(frozen=True, slots=True)
class Tell:
    """An event an operator should know of."""

    notice: Notice
    text: str


Effect = Take | Drop | Send | Announce | Change | Tell
