"""What a person may choose, by environment."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lbctl.errors import LbctlError

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
CATALOGUE_BOX = "debian/bookworm64"
CACHE = REPOSITORY / ".cache/vagrant"
LOCAL_BOX = CACHE / "lbctl.box"
KVM = Path("/dev/kvm")


@dataclass(frozen=True, slots=True)
class Settings:
    """memory: MiB by role. interval: of VRRP adverts, as in the configuration file. patience:
    by how much every timeout is longer than it is with KVM."""

    servers: int
    box: str
    driver: str
    memory: Mapping[str, int]
    cpus: int
    interval: str
    patience: int
    state: Path

    @property
    def box_file(self) -> Path | None:
        """A box that is a file; None: a name of the catalogue."""
        return Path(self.box) if "/" in self.box and self.box.endswith(".box") else None


def read(environment: Mapping[str, str], *, kvm: bool, local_box: bool) -> Settings:
    """kvm: it works here. local_box: `make box` has been here. Raises LbctlError."""
    driver = environment.get("LBCTL_DRIVER", "kvm" if kvm else "qemu")
    if driver not in ("kvm", "qemu"):
        raise LbctlError(f"LBCTL_DRIVER={driver}: no such driver", "kvm or qemu")
    memory = {
        "gateway": _number(environment, "LBCTL_GATEWAY_MEMORY", 768, 512, 65536),
        "server": _number(environment, "LBCTL_SERVER_MEMORY", 384, 256, 65536),
        "client": _number(environment, "LBCTL_CLIENT_MEMORY", 384, 256, 65536),
    }
    return Settings(
        servers=_number(environment, "LBCTL_SERVERS", 2, 2, 80),
        box=environment.get("LBCTL_BOX", str(LOCAL_BOX) if local_box else CATALOGUE_BOX),
        driver=driver,
        memory=memory,
        cpus=_number(environment, "LBCTL_CPUS", 1, 1, 64),
        patience=_number(environment, "LBCTL_PATIENCE", 1 if driver == "kvm" else 6, 1, 60),
        interval=environment.get("LBCTL_INTERVAL", "100ms" if driver == "kvm" else "1s"),
        state=Path(environment.get("LBCTL_VAGRANT_STATE", CACHE / "state")),
    )


def _number(environment: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = environment.get(name, str(default))
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise LbctlError(f"{name}={text}: not a number from {low} to {high}", f"{name}={default}")
    return int(text)
