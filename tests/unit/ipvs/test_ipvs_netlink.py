"""The netlink socket's manners, with a made-up kernel at the other end of a socket pair."""

import errno
import socket
import struct
from threading import Thread

import pytest

from lbctl.dataplane.ipvs import netlink
from lbctl.dataplane.ipvs.codec import Command
from lbctl.dataplane.ipvs.genl import ACK, DONE, ERROR, INTERRUPTED, attribute
from lbctl.dataplane.ipvs.netlink import BATCH, TRIES, Netlink, load_module
from lbctl.errors import DataPlaneError, NotPermitted, Unsupported

FAMILY = 30


def datagram(kind, sequence, body, flags=0):
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body


def error(sequence, number=0):
    return datagram(ERROR, sequence, struct.pack("=i", -number) + bytes(16))


def done(sequence):
    return datagram(DONE, sequence, struct.pack("=i", 0))


def item(sequence, flags=0):
    return datagram(FAMILY, sequence, b"\4\1\0\0" + attribute(1, b"item"), flags)


class Kernel:
    """Answers each send with what `answers` makes of its requests: (sequence, flags)."""

    def __init__(self, answers):
        near, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.sends = 0
        self._answers = answers
        self._thread = Thread(target=self._serve, daemon=True)
        self.netlink = Netlink(near, FAMILY)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.netlink.close()
        self._thread.join(5)
        self._far.close()

    def _serve(self):
        while data := self._far.recv(1 << 20):
            self.sends += 1
            requests = []
            while data:
                length, _, flags, sequence = struct.unpack_from("=IHHI", data)
                requests.append((sequence, flags))
                data = data[(length + 3) & ~3 :]
            for answer in self._answers(self.sends, requests):
                self._far.send(answer)


def last_acknowledged(refused):
    """As the real one: errors as they come, and an answer to the one that asks for it; none
    where it was interrupted."""

    def answers(_, requests):
        for number, (sequence, flags) in enumerate(requests):
            if refused.get(number) == errno.EINTR:
                continue
            if number in refused:
                yield error(sequence, refused[number])
            elif flags & ACK:
                yield error(sequence)

    return answers


def test_a_batch_asks_for_one_answer_and_hears_of_each_that_failed():
    requests = [(Command.NEW_DEST, bytes(8))] * 5
    with Kernel(last_acknowledged({1: errno.EEXIST, 4: errno.ESRCH})) as kernel:
        assert kernel.netlink.write(requests) == [0, errno.EEXIST, 0, 0, errno.ESRCH]
        assert kernel.sends == 1
        assert kernel.netlink.sent == {Command.NEW_DEST: 5}


def test_a_request_that_is_never_answered_keeps_nobody_waiting():
    """Of one that came to EINTR the kernel says nothing, whether it asks or not."""
    requests = [(Command.DEL_DAEMON, bytes(8))] * 2
    with Kernel(last_acknowledged({1: errno.EINTR})) as kernel:
        assert kernel.netlink.write(requests) == [0, 0]


def test_many_requests_go_in_as_few_sends_as_fit():
    body = bytes(980)
    with Kernel(last_acknowledged({})) as kernel:
        assert kernel.netlink.write([(Command.NEW_DEST, body)] * 200) == [0] * 200
        assert kernel.sends == -(-200 * 1000 // BATCH)


def test_numbers_of_requests_begin_again_after_the_last():
    """A daemon that reads its counters every two seconds comes there."""
    with Kernel(last_acknowledged({1: errno.EEXIST})) as kernel:
        kernel.netlink._sequence = 2**32 - 2
        requests = [(Command.NEW_DEST, bytes(8))] * 3
        assert kernel.netlink.write(requests) == [0, errno.EEXIST, 0]
    with Kernel(torn(0)) as kernel:
        kernel.netlink._sequence = 2**32 - 1
        assert len(kernel.netlink.dump(Command.GET_SERVICE)) == 1


def test_nothing_to_write_is_not_sent():
    with Kernel(last_acknowledged({})) as kernel:
        assert kernel.netlink.write([]) == []
        assert kernel.sends == 0


def torn(times):
    def answers(turn, requests):
        sequence = requests[0][0]
        yield item(sequence, INTERRUPTED if turn <= times else 0)
        yield done(sequence)

    return answers


def test_a_dump_that_changed_meanwhile_is_read_again():
    with Kernel(torn(2)) as kernel:
        (body,) = kernel.netlink.dump(Command.GET_SERVICE)
        assert bytes(body) == attribute(1, b"item")
        assert kernel.sends == 3


def test_a_dump_that_never_holds_still_is_given_up():
    with Kernel(torn(99)) as kernel:
        with pytest.raises(DataPlaneError, match=f"in each of {TRIES} reads"):
            kernel.netlink.dump(Command.GET_SERVICE)
        assert kernel.sends == TRIES


def test_an_answer_to_an_older_question_is_passed_over():
    def answers(_, requests):
        sequence = requests[0][0]
        yield item(sequence - 1)
        yield done(sequence - 1)
        yield item(sequence)
        yield done(sequence)

    with Kernel(answers) as kernel:
        assert len(kernel.netlink.dump(Command.GET_SERVICE)) == 1


def test_what_the_kernel_refuses_to_list_is_an_os_error():
    with Kernel(lambda _, requests: [error(requests[0][0], errno.EPERM)]) as kernel:
        with pytest.raises(PermissionError):
            kernel.netlink.dump(Command.GET_SERVICE)
        with pytest.raises(PermissionError):
            kernel.netlink.ask(Command.GET_INFO)


# --- a kernel without IPVS --------------------------------------------------------------


@pytest.fixture
def modprobe(tmp_path, monkeypatch):
    """A modprobe of ours, in place of the machine's: writes `script` and its mode."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def make(script, mode=0o755):
        program = tmp_path / "modprobe"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(mode)

    return make


def test_a_missing_module_is_told_in_modprobes_words_with_a_way_out(modprobe):
    modprobe("echo 'modprobe: FATAL: Module ip_vs not found in /lib/modules/6.1' >&2; exit 1")
    with pytest.raises(Unsupported, match="does not offer it: modprobe: FATAL") as refused:
        load_module()
    assert "full kernel, or set datapath: xdp" in refused.value.hint


def test_a_module_that_may_not_be_loaded_is_told(modprobe):
    modprobe("echo 'modprobe: ERROR: could not insert ip_vs: Key was rejected' >&2; exit 1")
    with pytest.raises(Unsupported, match="Key was rejected"):
        load_module()
    modprobe("exit 3")
    with pytest.raises(Unsupported, match="modprobe ip_vs: exit 3"):
        load_module()


def test_a_modprobe_that_hangs_is_told(modprobe, monkeypatch):
    monkeypatch.setattr(netlink, "LOADING", 0.05)
    modprobe("exec /bin/sleep 5")
    with pytest.raises(Unsupported, match="modprobe ip_vs did not end within"):
        load_module()


def test_without_modprobe_or_the_right_to_run_it(modprobe):
    with pytest.raises(Unsupported, match="modprobe is not installed"):
        load_module()
    modprobe("exit 0", mode=0o644)
    with pytest.raises(NotPermitted, match="cannot run modprobe"):
        load_module()
