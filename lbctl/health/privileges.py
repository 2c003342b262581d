"""Giving up what a worker does not need, for good."""

import ctypes
import errno
import os
import pwd
from collections.abc import Iterable, Sequence
from typing import Final

# linux/prctl.h
_PR_SET_KEEPCAPS: Final = 8
_PR_SET_NAME: Final = 15
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
# linux/capability.h
_CAP_SETPCAP: Final = 8
_CAP_NET_RAW: Final = 13
_VERSION_3: Final = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    """struct __user_cap_header_struct"""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    """struct __user_cap_data_struct; the kernel wants two of them, for 64 capabilities"""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def name_process(name: str) -> None:
    """What `ps` and `top` show; the kernel keeps 15 bytes. Raises OSError."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()))


def first_account(names: Sequence[str]) -> str:
    """The first of the users `names` that exists; else the last."""
    for name in names:
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    return names[-1]


def drop_to(account: str, needs: Iterable[str], *, raw: bool = True) -> str:
    """Be the user `account`, keep CAP_NET_RAW if it is held (not `raw`: nor that), and nothing
    that could bring another one back. Returns why it stays the user it is; "": it does not.

    needs: files that must be readable then. To be called while the process has one thread.
    Raises OSError.
    """
    permitted = _permitted()
    kept = 1 << _CAP_NET_RAW if raw else 0
    if permitted >> _CAP_SETPCAP & 1:
        _empty_bounding_set(kept)
    stays = _become(account, needs) if os.geteuid() == 0 else ""
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _hold(permitted & kept)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    return stays


def _become(account: str, needs: Iterable[str]) -> str:
    """Keeps what is permitted (capabilities(7), PR_SET_KEEPCAPS)."""
    try:
        who = pwd.getpwnam(account)
    except KeyError:
        return f"there is no user {account}"
    groups, group = os.getgroups(), os.getegid()
    try:
        os.setgroups([])
        os.setegid(who.pw_gid)
    except PermissionError:
        return "it may not change its user (CAP_SETUID, CAP_SETGID)"
    os.seteuid(who.pw_uid)  # for a look: it takes the effective capabilities with it
    barred = [name for name in needs if not os.access(name, os.R_OK, effective_ids=True)]
    os.seteuid(0)
    if barred:
        os.setegid(group)
        os.setgroups(groups)
        return f"{account} may not read {barred[0]}"
    _prctl(_PR_SET_KEEPCAPS, 1)
    os.setresgid(who.pw_gid, who.pw_gid, who.pw_gid)
    os.setresuid(who.pw_uid, who.pw_uid, who.pw_uid)
    return ""


def _empty_bounding_set(kept: int) -> None:
    """What a set-user-id program, or root by exec, could otherwise get back."""
    for capability in range(64):
        if kept >> capability & 1:
            continue
        try:
            _prctl(_PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == errno.EINVAL:  # past the last one that this kernel knows
                return
            raise


def _permitted() -> int:
    data = (_Data * 2)()
    if _libc.capget(ctypes.byref(_Header(_VERSION_3, 0)), data) != 0:
        raise _last_error("capget")
    return int(data[0].permitted | data[1].permitted << 32)


def _hold(capabilities: int) -> None:
    """Make `capabilities` (all below 32) the effective and the permitted ones."""
    data = (_Data * 2)()
    data[0].effective = data[0].permitted = capabilities
    if _libc.capset(ctypes.byref(_Header(_VERSION_3, 0)), data) != 0:
        raise _last_error("capset")


def _prctl(option: int, argument: "int | ctypes.c_char_p") -> None:
    value = ctypes.c_ulong(argument) if isinstance(argument, int) else argument
    zero = ctypes.c_ulong(0)
    if _libc.prctl(option, value, zero, zero, zero) != 0:
        raise _last_error(f"prctl {option}")


def _last_error(what: str) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, f"{what}: {os.strerror(code)}")
