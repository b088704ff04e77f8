# SPDX-License-Identifier: Apache-2.0
"""The figures of the comparison, summed up: JSON, Markdown and plots."""

from __future__ import annotations

import json
import statistics
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import charts
import overview
from measure import machine
from peers import Peer
from workloads import WORKLOADS

OURS = "ours, shuffle=True"
COLUMNS = (
    "way of loading",
    "workers",
    "rows/s",
    "spread",
    "to ours",
    "mixing 1 / 16",
    "first batch, s",
    "resume, s",
    "CPU s per M rows",
    "peak MB",
    "disk MB per M rows",
)


def empty(
    peers: dict[str, Peer], missing: dict[str, str], scale: str, slow_writers_rows: int
) -> dict[str, Any]:
    """What is known before anything is measured."""
    return {
        "machine": machine(),
        "scale": scale,
        "slow_writers_rows": slow_writers_rows,
        "peers": {
            way.name: {
                "module": module,
                "package": f"{peer.package} {version_of(peer.package)}",
                "setting": way.setting,
                "resume": peer.resume,
                "part_of_the_rows": peer.row_by_row,
            }
            for module, peer in peers.items()
            for way in peer.ways
        },
        "missing": missing,
        "forms": [],
        "cells": [],
    }


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "of unknown version"


def save(out: Path, found: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(found, indent=1))
    out.with_suffix(".md").write_text(markdown(found))
    charts.save(out, found, of_workloads(rows(found)))


def of_workloads(every: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in every if row["group"] == "workloads"]


def rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each cell, over its rounds: the best speed, medians of all else, the spread."""
    cells: dict[tuple, list[dict[str, Any]]] = {}
    for cell in found["cells"]:
        key = tuple(
            cell[name] for name in ("group", "kind", "rows", "way", "workers", "batch_size")
        )
        cells.setdefault(key, []).append(cell)
    return [summary(rounds) for rounds in cells.values()]


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    row = {
        name: rounds[0][name] for name in ("group", "kind", "rows", "way", "workers", "batch_size")
    }
    figures = ("cpu", "first_batch", "resume", "resumed_at", "mixing_1", "mixing_16")
    for name in figures:
        values = [cell[name] for cell in rounds if cell.get(name) is not None]
        row[name] = statistics.median(values) if values else None
    # Whatever else the machine does only takes time away.
    speeds = [cell["speed"] for cell in rounds if "speed" in cell]
    row["speed"] = max(speeds, default=None)
    row["spread"] = (max(speeds) - min(speeds)) / max(speeds) if speeds else None
    row["memory"] = max((cell["memory"] for cell in rounds if "memory" in cell), default=None)
    row["error"] = next((cell["error"] for cell in rounds if "error" in cell), None)
    return row


def markdown(found: dict[str, Any]) -> str:
    parts = ["# Side by side with other loaders", "", described(found), ""]
    every = rows(found)
    parts += ["## The best of each", "", overview.table(of_workloads(every)), ""]
    for kind, workload in WORKLOADS.items():
        group = [row for row in every if row["group"] == "workloads" and row["kind"] == kind]
        if group:
            parts += [f"## ({workload.letter}) {workload.title}", "", table(found, group), ""]
    parts += grown(every, "sizes", "rows", "As tables grow")
    parts += grown(every, "batches", "batch_size", "As batches grow")
    parts += ["## How each is set up", "", settings(found), ""]
    return "\n".join(parts)


def described(found: dict[str, Any]) -> str:
    words = ", ".join(f"{name} {value}" for name, value in found["machine"].items())
    most = found["slow_writers_rows"]
    return (
        f"{words}; page cache warm. Batches of 256 rows of a table sorted by label. Speed is that "
        "of the fastest round, after a warm-up. `to ours` is the ratio to ours, `shuffle=True`, "
        "with as many workers. Mixing is the variance of label counts in a batch, and in 16 "
        "batches in a row, over that of a true shuffle: 1 is perfect. Memory is that of all "
        f"processes without page cache. Peers that store row by row were given at most {most:,} "
        "rows. A star marks a state that was not reached in mid-epoch in the time there was, but "
        "before."
    )


def table(found: dict[str, Any], group: list[dict[str, Any]]) -> str:
    lines = [f"| {' | '.join(COLUMNS)} |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
    mixing = {
        row["way"]: row for row in rows(found) if row["group"] == "workloads" and row["mixing_1"]
    }
    ours = {row["workers"]: row["speed"] for row in group if row["way"] == OURS}
    for row in sorted(group, key=lambda row: (row["workers"], -(row["speed"] or 0))):
        lines.append(line(found, row, mixing.get(row["way"], {}), ours.get(row["workers"])))
    return "\n".join(lines)


def line(found: dict, row: dict, mixing: dict, ours: float | None) -> str:
    name = f"**{row['way']}**" if row["way"].startswith("ours") else row["way"]
    ratio = row["speed"] / ours if row["speed"] and ours else None
    early = "*" if (row["resumed_at"] or 1) < 0.45 else ""
    resume = f"{number(row['resume'], 2)}{early}"
    cells = [
        name if not row["error"] else f"{name} ({row['error']})",
        str(row["workers"]),
        number(row["speed"], 0),
        "-" if row["spread"] is None else f"{row['spread']:.0%}",
        number(ratio, 2),
        f"{number(mixing.get('mixing_1'), 1)} / {number(mixing.get('mixing_16'), 1)}",
        number(row["first_batch"], 2),
        resume,
        number(row["cpu"], 1),
        number(row["memory"], 0),
        number(disk(found, row), 0),
    ]
    return f"| {' | '.join(cells)} |"


def number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def disk(found: dict[str, Any], row: dict[str, Any]) -> float | None:
    """MB of this peer's form of a million rows."""
    module = found["peers"][row["way"]]["module"]
    for form in found["forms"]:
        if (form["peer"], form["kind"], form["rows"]) == (module, row["kind"], row["rows"]):
            return form["bytes"] / row["rows"] if form["bytes"] else None
    return None


def grown(every: list[dict[str, Any]], group: str, along: str, title: str) -> list[str]:
    """Rows a second of each way along one axis, without workers."""
    grown_rows = [row for row in every if row["group"] == group]
    if not grown_rows:
        return []
    kind = grown_rows[0]["kind"]
    if group == "batches":
        ways = {row["way"] for row in grown_rows}
        largest = max(row["rows"] for row in grown_rows)
        grown_rows += [
            row
            for row in every
            if row["group"] == "workloads"
            and (row["kind"], row["rows"], row["workers"]) == (kind, largest, 0)
            and row["way"] in ways
        ]
    points = sorted({row[along] for row in grown_rows})
    lines = [
        f"| rows/s ({kind}), {along.replace('_', ' ')} | {' | '.join(f'{p:,}' for p in points)} |",
        "|---|" + "---:|" * len(points),
    ]
    speeds = {(row["way"], row[along]): row["speed"] for row in grown_rows}
    for way in dict.fromkeys(row["way"] for row in grown_rows):
        values = [number(speeds.get((way, point)), 0) for point in points]
        lines.append(f"| {way} | {' | '.join(values)} |")
    return [f"## {title}", "", "\n".join(lines), ""]


def settings(found: dict[str, Any]) -> str:
    lines = ["| way of loading | package | set up | resume |", "|---|---|---|---|"]
    for way, peer in found["peers"].items():
        lines.append(f"| {way} | {peer['package']} | {peer['setting']} | {peer['resume']} |")
    for module, reason in found["missing"].items():
        lines.append(f"| {module} | left out | {reason} | |")
    return "\n".join(lines)
