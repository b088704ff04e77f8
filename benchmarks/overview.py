# SPDX-License-Identifier: Apache-2.0
"""The one table that sums the comparison up: each way's best on each workload, and mixing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workloads import WORKLOADS

Row = dict[str, Any]


def table(rows: list[Row], shown: Callable[[float | None], str] | None = None) -> str:
    """Rows a second without workers or with two, whichever is more; the best mixed first."""
    best = best_of(rows)
    mixing = {row["way"]: mixing_of(row) for row in rows if row["mixing_1"]}
    kinds = [kind for kind in WORKLOADS if any(found == kind for _, found in best)]
    heads = [f"({WORKLOADS[kind].letter}) {kind}" for kind in kinds]
    lines = [
        f"| way of loading | mixing | {' | '.join(heads)} |",
        "|---|" + "---:|" * (len(kinds) + 1),
    ]
    for way in sorted({way for way, _ in best}, key=lambda way: order_of(way, mixing, best, kinds)):
        cells = [(shown or cell)(best.get((way, kind))) for kind in kinds]
        mixed = f"{mixing[way]:,.1f}" if way in mixing else "-"
        lines.append(f"| {named(way)} | {mixed} | {' | '.join(cells)} |")
    return "\n".join(lines)


def best_of(rows: list[Row]) -> dict[tuple[str, str], float]:
    """Rows a second by way and kind of rows."""
    best: dict[tuple[str, str], float] = {}
    for row in rows:
        if row["speed"]:
            key = row["way"], row["kind"]
            best[key] = max(best.get(key, 0.0), row["speed"])
    return best


def mixing_of(row: Row) -> float:
    """The worse of the two measures of mixing."""
    return max(row["mixing_1"], row["mixing_16"] or 0.0)


def order_of(way: str, mixing: dict, best: dict, kinds: list[str]) -> tuple[bool, float]:
    """Ways that mix well come first, and the fast ones among them."""
    return mixing.get(way, 0.0) > 2, -sum(best.get((way, kind), 0.0) for kind in kinds[:1])


def named(way: str) -> str:
    return f"**{way}**" if way.startswith("ours") else way


def cell(speed: float | None) -> str:
    return "-" if speed is None else f"{speed:,.0f}"
