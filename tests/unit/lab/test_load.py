import pytest

from lbctl.lab.load import Wrk, parse_wrk

CLEAN = """\
Running 1s test @ http://192.0.2.10/
  1 threads and 10 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   293.67us  155.05us   3.99ms   91.52%
    Req/Sec    34.46k     2.43k   38.46k    72.73%
  37684 requests in 1.10s, 6.90MB read
Requests/sec:  34259.60
Transfer/sec:      6.27MB
"""
ERRORS = "  Socket errors: connect 1, read 22, write 3, timeout 4\n"
STATUS = "  Non-2xx or 3xx responses: 5\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CLEAN, Wrk(37684, 0, 0, 0, 0, 0)),
        (CLEAN + ERRORS, Wrk(37684, 1, 22, 3, 4, 0)),
        (CLEAN + STATUS, Wrk(37684, 0, 0, 0, 0, 5)),
        (CLEAN + ERRORS + STATUS, Wrk(37684, 1, 22, 3, 4, 5)),
    ],
)
def test_the_report_of_wrk(text: str, expected: Wrk) -> None:
    assert parse_wrk(text) == expected


def test_every_error_counts() -> None:
    assert parse_wrk(CLEAN + ERRORS + STATUS).failed == 35


def test_no_report_is_no_success() -> None:
    with pytest.raises(ValueError, match="no report of wrk: 'unable to connect'"):
        parse_wrk("unable to connect")
