# SPDX-License-Identifier: Apache-2.0
"""The figures of the mixtures, summed up in Markdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from overview import cell, named

HEADS = ("rows/s", "off after any batch", "off after any row", "resume", "0 to 2 workers", "2 to 1")
RESUMED = ("resume_0_0", "resume_0_2", "resume_2_1")


def table(found: dict[str, Any], shown: Callable[[float | None], str] = cell) -> str:
    """Rows a second, how many rows a source is off its share at most, and what a state does."""
    lines = [f"| four tables | {' | '.join(HEADS)} |", "|---|---:|---:|---:|---|---|---|"]
    for name, way in found["ways"].items():
        speed = max(way["speeds"], default=None)
        cells = [shown(speed), *(off(way.get(key)) for key in ("after_batches", "after_rows"))]
        cells += [in_short(way.get(key)) for key in RESUMED]
        lines.append(f"| {named(name)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def off(rows: float | None) -> str:
    return "-" if rows is None else f"{rows:,.0f}"


def in_short(found: str | None) -> str:
    """Without what is behind the first colon."""
    return "-" if found is None else found.partition(":")[0]


def dated(found: dict[str, Any], shown: Callable[[float | None], str] = cell) -> str:
    """The table, below a line that says when and on what it was measured."""
    rows = sorted({way["rows"] for way in found["ways"].values()}, reverse=True)
    sizes = " or, for loaders that store row by row, ".join(f"{each:,}" for each in rows)
    about = (
        f"Run of {found['date']}, {found['machine']['cpus']} processors; tables of {sizes} rows, "
        f"the first {found['counted']:,} rows counted:"
    )
    return f"{about}\n\n{table(found, shown)}"


def markdown(found: dict[str, Any]) -> str:
    """The table and all that stands behind it: settings, spreads, and what came after a state."""
    about = " ".join(f"{name} {value}" for name, value in found["machine"].items())
    parts = ["# Mixtures of four tables", "", f"{found['date']}; {about}", "", table(found), ""]
    parts += [f"Counted: the first {found['counted']:,} rows.", ""]
    for name, way in found["ways"].items():
        speeds = ", ".join(f"{speed:,.0f}" for speed in way["speeds"])
        parts += [
            f"## {name}",
            "",
            f"{way['package']}, {way['rows']:,} rows a table: {way['setting']}.",
            "",
            f"- rows/s of each round: {speeds or '-'}",
        ]
        parts += [
            f"- {title}: {way[key]}"
            for key, title in {
                "first_batch": "first batch after, s",
                "state_bytes": "bytes of a state",
                "resume_0_0": "resume without workers",
                "resume_0_2": "with 2 workers where there were none",
                "resume_2_1": "with 1 worker where there were 2",
                "error": "error",
            }.items()
            if key in way
        ]
        parts.append("")
    parts += [f"Left out: {name}: {why}" for name, why in found["missing"].items()]
    return "\n".join(parts).rstrip() + "\n"
