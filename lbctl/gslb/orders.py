"""The drains in a file: a site that an operator took out stays out when its server starts
again, also where no other server could tell it so."""

import os
from pathlib import Path

import msgspec

from lbctl.gslb.reports import DrainOrder


class Unreadable(ValueError):
    """A file of orders that is none: no site drains."""


def read_orders(path: Path) -> dict[str, DrainOrder]:
    """The orders by site; none where there is no file. Raises Unreadable."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, DrainOrder])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as error:
        text = f"{path}: cannot be read, so no site drains by it (drain it again): {error}"
        raise Unreadable(text) from None


def write_orders(path: Path, orders: dict[str, DrainOrder]) -> None:
    """Put `orders` in the place of what is there, whole or not at all. Raises OSError."""
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(msgspec.json.encode(orders))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
