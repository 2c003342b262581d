"""The report of a run, as Markdown: pure."""

from collections.abc import Mapping, Sequence

from vagrant.steps import Result


def markdown(
    results: Sequence[Result], figures: Mapping[str, str], about: Mapping[str, str]
) -> str:
    """results: in order. figures: name and value with its unit. about: of the run."""
    skipped = sum(one.skipped for one in results)
    failed = sum(not one.passed for one in results) - skipped
    verdict = f"{failed} of {len(results)} steps failed" if failed else "every step passed"
    verdict += f", {skipped} skipped" if skipped else ""
    total = sum(one.took for one in results)
    lines = ["# The Vagrant lab: what was seen", ""]
    lines += [f"**{verdict}**, in {total / 60:.1f} minutes.", ""]
    lines += _table(("", ""), [(name, value) for name, value in about.items()])
    if figures:
        lines += ["## Figures", "", *_table(("what", "measured"), list(figures.items()))]
    lines += ["## Steps", ""]
    rows = [(str(i), one.title, _mark(one), f"{one.took:.1f}") for i, one in enumerate(results, 1)]
    lines += _table(("", "step", "", "seconds"), rows)
    for number, one in enumerate(results, 1):
        lines += [f"### {number}. {one.title}", ""]
        if one.trouble:
            lines += [f"**{_one_line(one.trouble)}**", ""]
        if one.seen:
            lines += ["```", *one.seen, "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def _mark(result: Result) -> str:
    if result.skipped:
        return "skipped"
    return "passed" if result.passed else "**failed**"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    drawn = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    drawn += ["| " + " | ".join(_one_line(cell) for cell in row) + " |" for row in rows]
    return [*drawn, ""]


def _one_line(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
