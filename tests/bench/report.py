"""The table that is pasted into docs/benchmarks.md, and under what it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from tests.bench import peers
from tests.bench.measure import Summary
from tests.bench.rows import Bench, Line

HEAD = (
    "| work | against | measured | at most | reach for | | ours: wall (min - max), processor, peak | theirs |",
    "|---|---|---|---|---|---|---|---|",
)


def about(bench: Bench) -> dict[str, str]:
    """Everything a reader has to know beside the table."""
    sizes = "quick (tiny: these figures mean nothing)" if bench.quick else "full"
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "machine": peers.machine(bench.work),
        "sizes": sizes,
        "runs": f"medians of {bench.runs} interleaved runs",
        **peers.versions(),
    }


def markdown(about: Mapping[str, str], lines: Sequence[Line]) -> str:
    said = "; ".join(f"{name}: {value}" for name, value in about.items())
    return "\n".join((said + ".", "", *HEAD, *map(_row, lines)))


def _row(line: Line) -> str:
    measured = _number(line.value, line.unit)
    cells = (
        line.work,
        line.against,
        f"{measured} ({line.note})" if line.note else measured,
        _number(line.at_most, line.unit),
        _number(line.reach, line.unit),
        line.verdict,
        _summary(line.ours),
        _summary(line.peer),
    )
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _number(value: float | None, unit: str) -> str:
    match value, unit:
        case None, _:
            return "-"
        case _, "":
            return f"{value:.2f}"
        case _, "MB":
            return f"{value:.1f} MB" if value < 10 else f"{value:.0f} MB"
    return f"{value:,.0f} {unit}"


def _summary(found: Summary | None) -> str:
    if found is None:
        return "-"
    wall = f"{found.wall_s:.3g} s ({found.fastest_s:.3g} - {found.slowest_s:.3g})"
    return f"{wall}, {found.cpu_s:.3g} s, {found.peak_mb:.0f} MB"
