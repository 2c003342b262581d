"""Tests marked `ipvs`, where the running kernel has no IPVS: run in a virtual machine, told
here as if they had run here.

The first such test boots the machine once, with all that were selected; each then reports
what it came to in the guest, traceback and duration included. Where the kernel has IPVS
nothing of this happens.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import pytest

MACHINE = Path(__file__).with_name("machine.py")
RESULTS = "LBCTL_GUEST_RESULTS"  # in the guest: the file that its reports go to
TIMEOUT = 1500  # seconds for all
BUDGET = 600  # seconds of CPU that those of `make test` may take together
EACH = 600  # seconds for one test in the guest, which is twenty times slower


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "ipvs: needs a kernel with IPVS; `make test` boots one where this has none"
    )
    if in_guest():
        config.pluginmanager.register(Messenger(config, Path(os.environ[RESULTS])))


class Messenger:
    """In the guest: hands each report out as it comes."""

    def __init__(self, config, results):
        self.config = config
        self.results = results

    def pytest_runtest_logreport(self, report):
        plain = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        with self.results.open("a") as results:
            print(json.dumps(plain, default=str), file=results)


@pytest.hookimpl(tryfirst=True)  # before xdist looks at the groups
def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("ipvs"):
            # One worker takes all of them, or each would boot a machine of its own.
            item.add_marker(pytest.mark.xdist_group(_GROUP))
            item.add_marker(pytest.mark.timeout(EACH if has_ipvs() else TIMEOUT))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    if not item.get_closest_marker("ipvs") or has_ipvs() or in_guest():
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in _reports(item):
        item.ihook.pytest_runtest_logreport(report=report)
    # What the test before left set up for this one: nobody else will take it down.
    item.session._setupstate.teardown_exact(nextitem)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def in_guest():
    return RESULTS in os.environ


@cache
def has_ipvs():
    if os.geteuid() == 0:
        subprocess.run(["modprobe", "-q", "ip_vs"], check=False, stderr=subprocess.DEVNULL)
    return Path("/proc/net/ip_vs").exists()


# --- the machine, booted once -----------------------------------------------------------

_GROUP = "vm"
_FOUND = pytest.StashKey[tuple[dict, str, float]]()


def _reports(item):
    config, late, cost = item.config, [], []
    if _FOUND not in config.stash:
        selected = [one for one in item.session.items if one.get_closest_marker("ipvs")]
        config.stash[_FOUND] = _run([_plain(one) for one in selected], config)
        spent = config.stash[_FOUND][2]
        cost = [("CPU seconds of the virtual machine", f"{spent:.0f}, of {BUDGET} at most")]
        if text := over_budget(spent, any(one.get_closest_marker("long") for one in selected)):
            late = [pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "teardown")]
    found, output, _ = config.stash[_FOUND]
    if reports := found.get(_plain(item)):
        for report in reports:
            report.nodeid = item.nodeid
            if report.when == "call":  # whose properties are shown at the end
                report.user_properties += cost
        return reports + late
    outcome, text = "failed", f"it did not run in the virtual machine, which said:\n{output}"
    if output.startswith("vm: missing"):
        outcome, text = "skipped", (str(item.path), item.location[1] or 0, output.strip())
    return [pytest.TestReport(item.nodeid, item.location, {}, outcome, text, "setup")]


def over_budget(spent, with_long_ones):
    """What is wrong with a machine that worked for so many seconds; "" if nothing is. By CPU
    time, which a neighbour's work does not stretch: with one CPU it is what a quiet machine's
    clock would show."""
    if with_long_ones or spent <= BUDGET:
        return ""
    return f"the virtual machine worked for {spent:.0f} s: at most {BUDGET} (mark some `long`)"


def _plain(item):
    """The node id as it is without xdist, which appends a test's group."""
    return item.nodeid.removesuffix(f"@{_GROUP}")


def _compile_outside(config, nodeids):
    """What tests there load is compiled by running those that load the same here."""
    from tests.vm.test_vm_xdp import command

    commands = {
        "test_vm_xdp": command(),
        "test_vm_fence": [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            "0",
            "tests/bpf/test_fence.py",
        ],
    }
    for name, words in commands.items():
        if any(name in nodeid for nodeid in nodeids):
            subprocess.run(words, cwd=config.rootpath, stdout=subprocess.DEVNULL, check=False)


def _run(nodeids, config):
    """The guest's reports by test, all that it printed, and the CPU seconds that it took."""
    with tempfile.TemporaryDirectory(prefix="lbctl-guest-") as shared:
        _compile_outside(config, nodeids)
        before = _cpu()
        results, selected = Path(shared, "results"), Path(shared, "selected")
        selected.write_text("\n".join(nodeids))
        inside = ["env", f"{RESULTS}={results}", sys.executable, "-m", "pytest", "-q"]
        inside += ["-p", "no:cacheprovider", f"--timeout={EACH}", f"@{selected}"]
        outside = ["/usr/bin/python3", str(MACHINE), f"--timeout={TIMEOUT - 60}"]
        done = subprocess.run(
            [*outside, "--writable", shared, "--", *inside],
            cwd=config.rootpath,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        found = {}
        for line in results.read_text().splitlines() if results.exists() else []:
            plain = json.loads(line)
            report = config.hook.pytest_report_from_serializable(config=config, data=plain)
            found.setdefault(report.nodeid, []).append(report)
    return found, done.stdout.decode(errors="replace")[-4000:], _cpu() - before


def _cpu():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
