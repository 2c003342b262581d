"""Prometheus text of a GSLB server. Labels are bounded by the configuration."""

from collections.abc import Iterable, Mapping

from lbctl.gslb.control import Control

Labels = Mapping[str, str]


def exposition(control: Control) -> str:
    """The text format, version 0.0.4."""
    tally = control.tally
    lines = [
        *_family(
            "lbctl_gslb_answers_total", "counter", "Answers by name, site and reason.",
            (({"name": name, "site": site, "reason": reason}, count)
             for (name, site, reason), count in sorted(tally.answers.items())),
        ),
        *_family(
            "lbctl_gslb_events_total", "counter",
            "Queries answered with an error, limited, truncated or met with silence.",
            (({"event": event}, count) for event, count in sorted(tally.events.items())),
        ),
        *_family(
            "lbctl_gslb_site_up", "gauge", "Whether a site is alive by its observers' verdict.",
            (({"site": site}, control.standing(site).up) for site in control.gslb.sites),
        ),
        *_family(
            "lbctl_gslb_site_draining", "gauge", "Whether a site is drained by order.",
            (({"site": site}, control.standing(site).draining) for site in control.gslb.sites),
        ),
        *_family(
            "lbctl_gslb_site_load_ratio", "gauge", "Load as a share of the site's capacity.",
            (({"site": site}, control.standing(site).load) for site in control.gslb.sites),
        ),
        *_family(
            "lbctl_gslb_database_build_timestamp_seconds", "gauge", "When a database was built.",
            (({"database": str(kind)}, one.epoch)
             for kind, one in control.known.databases.items()),
        ),
        *_family(
            "lbctl_gslb_worker_restarts_total", "counter", "Workers that ended unasked.",
            [({}, tally.restarts)],
        ),
        *_family(
            "lbctl_gslb_errors", "gauge", "Things that are wrong now; `status` says which.",
            [({}, len(control.errors))],
        ),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _family(
    name: str, kind: str, text: str, samples: Iterable[tuple[Labels, float]]
) -> Iterable[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        inner = ",".join(f'{key}="{_escape(one)}"' for key, one in labels.items())
        yield f"{name}{{{inner}}} {_number(value)}" if inner else f"{name} {_number(value)}"


def _number(value: float) -> str:
    """Every digit of it: a counter that is rounded moves in jumps."""
    return str(int(value)) if value == int(value) else repr(float(value))


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
