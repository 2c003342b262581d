"""Running `nft`: the table of `snat` in the kernel."""

import subprocess
from collections.abc import Collection

from lbctl.dataplane.ipvs.snat import TABLE, frontends_in, ruleset
from lbctl.errors import DataPlaneError
from lbctl.model import Frontend


def write(frontends: Collection[Frontend]) -> None:
    """Make the table say exactly this, in one transaction. Raises DataPlaneError."""
    done = _nft(["-f", "-"], ruleset(frontends))
    if done.returncode:
        raise DataPlaneError(f"full NAT: nft refused its table: {done.stderr.strip()}")


def read() -> frozenset[Frontend]:
    """The listens whose source is translated. Raises DataPlaneError."""
    done = _nft(["-j", "list", "table", "inet", TABLE])
    if "No such file or directory" in done.stderr:
        return frozenset()
    if done.returncode:
        raise DataPlaneError(f"full NAT: nft cannot list its table: {done.stderr.strip()}")
    try:
        return frontends_in(done.stdout)
    except ValueError as error:
        raise DataPlaneError(f"full NAT: cannot read what nft lists: {error}") from None


def _nft(arguments: list[str], script: str = "") -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            ["nft", *arguments],
            input=script,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except FileNotFoundError:
        hint = "apt-get install nftables"
        raise DataPlaneError("full NAT: nft is not installed", hint) from None
    except subprocess.TimeoutExpired:
        raise DataPlaneError("full NAT: nft did not end within 30 s") from None
