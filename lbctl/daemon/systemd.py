"""sd_notify(3): tell whoever started us how we are; nothing where nobody wants to know."""

import os
import socket


def notify(state: str) -> None:
    """Send one line (`READY=1`) to NOTIFY_SOCKET."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.sendto(state.encode(), address)


def watchdog_interval() -> float | None:
    """Seconds between signs of life: half of what the supervisor waits."""
    text = os.environ.get("WATCHDOG_USEC", "")
    return int(text) / 2e6 if text.isdigit() and int(text) > 0 else None
