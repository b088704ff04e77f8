# SPDX-License-Identifier: Apache-2.0
"""Plots of the comparison: speed on each workload, speed against mixing, growth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workloads import WORKLOADS

Row = dict[str, Any]
OURS_COLOR, OTHER_COLOR = "tab:orange", "tab:gray"


def save(out: Path, found: dict[str, Any], rows: list[Row]) -> None:
    """Bars for each workload beside ``out``; with ``_mixing``, speed against mixing."""
    import matplotlib

    matplotlib.use("Agg")
    bars(out.with_suffix(".png"), rows)
    scatter(out.with_name(f"{out.name}_mixing.png"), rows)


def color(way: str) -> str:
    return OURS_COLOR if way.startswith("ours") else OTHER_COLOR


def bars(path: Path, rows: list[Row]) -> None:
    """Rows a second of every way, without workers and with two, a panel for each workload."""
    import matplotlib.pyplot as plt

    kinds = [kind for kind in WORKLOADS if any(row["kind"] == kind for row in rows)]
    longest = max(len(ways_of(rows, kind)) for kind in kinds)
    figure, axes = plt.subplots(
        len(kinds), 1, figsize=(10, len(kinds) * (0.8 + 0.3 * longest)), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, kind in zip(axes.flat, kinds, strict=True):
        panel(axis, rows, kind)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def ways_of(rows: list[Row], kind: str) -> list[str]:
    """The ways on a workload, the fastest last."""
    best: dict[str, float] = {}
    for row in rows:
        if row["kind"] == kind and row["speed"]:
            best[row["way"]] = max(best.get(row["way"], 0), row["speed"])
    return sorted(best, key=best.__getitem__)


def panel(axis: Any, rows: list[Row], kind: str) -> None:
    ways = ways_of(rows, kind)
    for workers, offset, alpha in ((0, 0.2, 1.0), (2, -0.2, 0.5)):
        found = {
            row["way"]: row["speed"]
            for row in rows
            if (row["kind"], row["workers"]) == (kind, workers) and row["speed"]
        }
        if found:
            places = [ways.index(way) + offset for way in found]
            colors = [color(way) for way in found]
            drawn = axis.barh(places, found.values(), 0.38, color=colors, alpha=alpha)
            axis.bar_label(drawn, [f"{s:,.0f}" for s in found.values()], padding=3, fontsize=7)
    axis.set_yticks(range(len(ways)), ways)
    axis.set(xscale="log", xlabel="rows/s; solid: in process, pale: 2 workers")
    axis.set_title(f"({WORKLOADS[kind].letter}) {WORKLOADS[kind].title}")
    axis.margins(x=0.15)


def scatter(path: Path, rows: list[Row]) -> None:
    """Speed against mixing: to the right is fast, low is well mixed."""
    import matplotlib.pyplot as plt

    points = [row for row in rows if row["mixing_1"] and row["speed"]]
    if not points:
        return
    figure, axis = plt.subplots(figsize=(9, 6), layout="constrained")
    for row in points:
        mixed = max(row["mixing_1"], row["mixing_16"] or 0)
        axis.scatter(row["speed"], mixed, color=color(row["way"]), zorder=2)
        # Many are mixed well, side by side: slanted, their names do not cover each other.
        slant = 65 if mixed < 2 else 0
        axis.annotate(row["way"], (row["speed"], mixed), (4, 4), textcoords="offset points",
                      fontsize=8, rotation=slant, rotation_mode="anchor")  # fmt: skip
    axis.axhline(2, color="tab:green", linewidth=0.8, linestyle="--")
    axis.set(
        xscale="log", yscale="log", xlabel="rows/s, in process",
        ylabel="variance of label counts, 1 or 16 batches, to a true shuffle",
        title="Speed and mixing on embeddings sorted by label",
    )  # fmt: skip
    axis.margins(x=0.2)
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=100)
    plt.close(figure)
