"""One round of one case: every program once, each result asserted."""

from dataclasses import dataclass, replace

from bench.prog.cases import ACK_RR, SYN_RR, Case, State
from bench.prog.stand import SHAPES, Stand
from bench.prog.wrapped import NOTHING
from lbctl.dataplane.xdp.abi import FlowState

CALIBRATION = NOTHING
MISSES = 0.05  # of the flows, that found no room in the flow cache: those go by the ring


@dataclass(frozen=True, slots=True)
class Result:
    """gross: CPU ns per packet of program and wrapper. missed: share of the packets whose
    flow was not remembered; None where nothing remembers."""

    gross: float
    missed: float | None = None


def measure(stand: Stand, case: Case, turn: int) -> dict[str, Result]:
    """Results by program. turn: which of them goes first, as order matters to caches."""
    if case.state is State.RECORDED:
        record(stand, case)
    programs = [CALIBRATION, *case.others, *case.ours]
    first = turn % len(programs)
    return {name: _one(stand, case, name) for name in programs[first:] + programs[:first]}


def record(stand: Stand, case: Case) -> None:
    """Open every flow, as its client would: a SYN, then an ACK."""
    stand.forget_flows()
    for packets in (SYN_RR, ACK_RR):
        stand.run(case.ours[0], replace(packets, flows=case.packets.flows), case.packets.flows)


def _one(stand: Stand, case: Case, program: str) -> Result:
    if program == CALIBRATION:
        return Result(stand.run(program, case.packets, case.count))
    if program in SHAPES:
        return _ours(stand, case, program)
    return _textbook(stand, case, program)


def _warm_up(stand: Stand, case: Case, program: str, passes: int = 1) -> None:
    if not case.endless:
        stand.run(program, case.packets, passes * case.packets.flows)


def _ours(stand: Stand, case: Case, program: str) -> Result:
    if case.state is State.EMPTY:
        stand.forget_flows()
    _warm_up(stand, case, program)
    before = stand.verdicts()
    gross = stand.run(program, case.packets, case.count)
    after = stand.verdicts()
    found = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert found == {case.verdict: case.count}, f"{case.name}, {program}: {found}"
    missed = _missed(stand, case)
    assert (missed or 0) <= MISSES, f"{case.name}, {program}: {missed:.2%} not remembered"
    return Result(gross, missed)


def _missed(stand: Stand, case: Case) -> float | None:
    if case.state is State.RECORDED:
        return 1 - stand.remembered(FlowState.ESTABLISHED) / case.packets.flows
    if case.name.startswith("rr"):
        return 1 - stand.remembered(FlowState.EMBRYONIC) / case.count
    return None


def _textbook(stand: Stand, case: Case, program: str) -> Result:
    """Twice round first: what the LRU evicted for other cases comes back, and stays."""
    _warm_up(stand, case, "textbook", passes=2)
    _warm_up(stand, case, program)
    before = stand.misses()
    gross = stand.run(program, case.packets, case.count)
    if program != "textbook":
        return Result(gross)
    missed = (stand.misses() - before) / case.count
    as_meant = missed > 0.999 if case.endless else missed == 0  # a few new flows are old ones
    assert as_meant, f"{case.name}, textbook: {missed:.3%} missed"
    return Result(gross, missed)
