"""What `lbctl ipvsadm` prints, beside the real ipvsadm on the same table."""

import subprocess

import pytest

from lbctl.cli.ipvsadm import listing
from lbctl.dataplane.converge import converge
from lbctl.dataplane.ipvs.view import view
from tests.vm.random_table import random_table

pytestmark = pytest.mark.ipvs


def real(*arguments):
    """The real one's lines."""
    done = subprocess.run(["ipvsadm", *arguments], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def seen(plane):
    """What the daemon answers to `lbctl ipvsadm`."""
    return view(plane.listing(), plane.info(), plane.timeouts(), plane.sync_daemons())


@pytest.mark.parametrize("seed", [1, 2])
def test_saving_and_listing_are_the_same_byte_for_byte(plane, seed):
    assert converge(plane, random_table(seed, 200)).refused == ()
    answer = seen(plane)
    assert list(listing.save(answer)) == real("-Sn")
    assert list(listing.show(answer)) == real("-Ln")


def test_the_other_listings_too(plane):
    assert converge(plane, random_table(3, 40)).refused == ()
    answer = seen(plane)
    for kind in ("stats", "rate", "thresholds", "persistent-conn"):
        assert list(listing.show(answer, kind)) == real("-Ln", f"--{kind}"), kind
        assert list(listing.show(answer, kind, exact=True)) == real("-Ln", f"--{kind}", "--exact")
    assert list(listing.show(answer, ordered=False)) == real("-Ln", "--nosort")
    assert [listing.timeouts(answer)] == real("-L", "--timeout")
    assert list(listing.connections(["Pro"])) == real("-Lcn")


def test_what_is_saved_can_be_restored_by_the_real_one(plane):
    """But for marks above 2^31, which ipvsadm prints as negative and does not read, a third
    flag of `sh` and `mh`, which it prints as nothing, and servers of `-g` and `-i`, which
    it gives the port of the service."""
    assert converge(plane, random_table(4, 40)).refused == ()
    lines = [line for line in listing.save(seen(plane)) if restorable(line)]
    real("-C")
    services = {line.split()[2] for line in lines if line.startswith("-A")}
    lines = [line for line in lines if line.split()[2] in services]
    script = "\n".join(lines) + "\n"
    subprocess.run(["ipvsadm", "-R"], input=script, text=True, check=True)
    assert set(real("-Sn")) == set(lines)


def restorable(line):
    if " -f -" in line or line.endswith("-b "):
        return False
    return line.startswith("-A") or " -m " in line
