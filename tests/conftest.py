"""Which tests run where: those that touch the kernel need root, and run one by one."""

import os
import shutil

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no fault of the code: what a law says does not depend on the time it takes.
# New examples are looked for by `make test-long`; a change is not judged by what another finds.
settings.register_profile(
    "lbctl",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.register_profile("long", settings.get_profile("lbctl"), derandomize=False)
settings.load_profile("lbctl")

pytest_plugins = ("tests.vm.guest",)

SERIAL = ("kernel", "lab")
TOOLS = ("ip", "nsenter", "ethtool", "nginx", "curl", "wrk", "bpftool")


def pytest_configure(config: pytest.Config) -> None:
    if config.option.markexpr == "long":
        settings.load_profile("long")


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = _what_is_missing()
    for item in items:
        if item.get_closest_marker("ipvs"):
            continue  # the virtual machine's, in a group of its own (tests/vm/guest.py)
        if any(item.get_closest_marker(name) for name in SERIAL):
            # With `--dist loadgroup` one worker runs all of these, in order, while the
            # others run unit tests.
            item.add_marker(pytest.mark.xdist_group("serial"))
            if missing:
                item.add_marker(pytest.mark.skip(reason=missing))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Rows that tests recorded for a table (`record_property("TABLE", row)`)."""
    tables: dict[str, list[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "call":
                for name, row in report.user_properties:
                    tables.setdefault(name, []).append(str(row))
    for name, rows in tables.items():
        terminalreporter.section(name)
        terminalreporter.write_line("\n".join(sorted(rows)))


def _what_is_missing() -> str:
    if os.geteuid() != 0:
        return "not root: run `sudo make test`"
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"no {', '.join(absent)}: `make test` installs what is missing" if absent else ""
