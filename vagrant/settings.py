"""What a person may choose, by environment; and what was chosen for the lab that is there."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lbctl.config.duration import seconds
from lbctl.errors import LbctlError

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
CATALOGUE_BOX = "debian/bookworm64"
CACHE = REPOSITORY / ".cache/vagrant"
LOCAL_BOX = CACHE / "lbctl.box"
KVM = Path("/dev/kvm")
RECORD = CACHE / "lab.json"  # by which `test` and `down` know what `up` was given
STATE = "lbctl-vagrant"  # our own in the directory that is named: it is removed with the lab


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
        return Path(self.box) if _is_file(self.box) else None

    def environment(self) -> dict[str, str]:
        """By which `read` makes the same again."""
        return {
            "LBCTL_SERVERS": str(self.servers),
            "LBCTL_BOX": self.box,
            "LBCTL_DRIVER": self.driver,
            "LBCTL_PATIENCE": str(self.patience),
            "LBCTL_CPUS": str(self.cpus),
            **{f"LBCTL_{role.upper()}_MEMORY": str(size) for role, size in self.memory.items()},
            "LBCTL_INTERVAL": self.interval,
            "LBCTL_VAGRANT_STATE": str(self.state.parent),
        }


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
    interval = environment.get("LBCTL_INTERVAL", "100ms" if driver == "kvm" else "1s")
    try:
        seconds(interval)
    except ValueError as error:
        raise LbctlError(f"LBCTL_INTERVAL={interval}: {error}") from None
    box = environment.get("LBCTL_BOX", str(LOCAL_BOX) if local_box else CATALOGUE_BOX)
    return Settings(
        servers=_number(environment, "LBCTL_SERVERS", 2, 2, 80),
        # vagrant and libvirt see these from another directory.
        box=str(Path(box).resolve()) if _is_file(box) else box,
        driver=driver,
        memory=memory,
        cpus=_number(environment, "LBCTL_CPUS", 1, 1, 64),
        patience=_number(environment, "LBCTL_PATIENCE", 1 if driver == "kvm" else 6, 1, 60),
        interval=interval,
        state=(Path(environment.get("LBCTL_VAGRANT_STATE", CACHE)) / STATE).resolve(),
    )


def _is_file(box: str) -> bool:
    return "/" in box and box.endswith(".box")


# --- the lab that is there --------------------------------------------------------------


def record(settings: Settings) -> None:
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    fresh = RECORD.with_suffix(".new")
    fresh.write_text(json.dumps(settings.environment(), indent=1))
    fresh.replace(RECORD)


def recorded() -> dict[str, str] | None:
    """The environment of the lab that is there; None: there is none."""
    try:
        found = json.loads(RECORD.read_text())
        there = (Path(found["LBCTL_VAGRANT_STATE"]) / STATE).exists()
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return dict(found) if there else None


def of_the_lab(environment: Mapping[str, str], there: Mapping[str, str]) -> Settings:
    """Of the lab that is `there`. Raises LbctlError: the environment asks for another one."""
    settings = read(there, kvm=False, local_box=False)
    asked = read({**there, **_ours(environment)}, kvm=False, local_box=False).environment()
    if other := [f"{name}={there[name]}" for name in there if asked[name] != there[name]]:
        raise LbctlError(f"the lab that is there has {', '.join(other)}", "make vagrant-down first")
    return settings


def _ours(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith("LBCTL_")}


def _number(environment: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = environment.get(name, str(default))
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise LbctlError(f"{name}={text}: not a number from {low} to {high}", f"{name}={default}")
    return int(text)
