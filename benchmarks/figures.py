# SPDX-License-Identifier: Apache-2.0
"""The figures of README and docs, written into the pages out of the results of one run.

A page names a table between two comments, ``<!-- figures: NAME -->`` and ``<!-- end -->``. What
stands there is never written by hand, so that no two pages can disagree.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mixing_report
import overview
import report
from measure import Result
from workloads import WORKLOADS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
PAGES = tuple(
    ROOT / name for name in ("README.md", "docs/measured.md", "docs/mixtures.md", "docs/cache.md")
)
SEQUENTIAL = "lancedb, sequential iter(8192)"
FIVE = (
    "ours, shuffle=True",
    'ours, shuffle="global", cached on disk',
    "ours, map-style, cached on disk",
    "HF datasets, map-style",
    "lancedb StreamingDataset",
)
CEILINGS = ("memmap gather (ceiling)", "torch TensorDataset")
_MARKED = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str, tables: dict[str, Callable[[], str]]) -> str:
    """A page with the tables that it names."""
    return _MARKED.sub(lambda found: f"{found[1]}\n{tables[found[2]]()}\n\n{found[3]}", page)


def rounded(value: float | None) -> str:
    """Three digits, as runs differ by more than the fourth.

    >>> rounded(536_091.4), rounded(8_549.9), rounded(None)
    ('536,000', '8,550', '-')
    """
    if value is None:
        return "-"
    unit = 10 ** max(0, math.floor(math.log10(value)) - 2)
    return f"{round(value / unit) * unit:,}"


def of_results(folder: Path) -> dict[str, Callable[[], str]]:
    """The tables that pages may name, by name."""
    peers = json.loads((folder / "peers.json").read_text())
    streaming = json.loads((folder / "streaming.json").read_text())
    mixtures = json.loads((folder / "mixtures.json").read_text())
    cached = json.loads((folder / "disk_cache.json").read_text())
    rows = report.of_workloads(report.rows(peers))
    return {
        "few": lambda: few(rows),
        "best": lambda: overview.table(rows, rounded),
        "workers": lambda: with_workers(rows),
        "calls": lambda: beside_calls(streaming),
        "mixing": lambda: mixing_report.dated(mixtures, rounded),
        "disk": lambda: on_disk(cached),
    }


def few(rows: list[dict[str, Any]]) -> str:
    """Five ways of loading embeddings."""
    best = overview.best_of(rows)
    mixing = {row["way"]: overview.mixing_of(row) for row in rows if row["mixing_1"]}
    lines = ["| | rows/s | mixing |", "|---|---:|---:|"]
    for way in FIVE:
        speed = rounded(best.get((way, "embeddings")))
        lines.append(f"| {overview.named(way)} | {speed} | {mixing.get(way, 0):.1f} |")
    return "\n".join(lines)


def with_workers(rows: list[dict[str, Any]]) -> str:
    """Ours with two workers, and the best of the others on each workload."""
    two = overview.best_of([row for row in rows if row["workers"] == 2])
    kinds = [kind for kind in WORKLOADS if (FIVE[0], kind) in two]
    others = [
        max((speed, way) for (way, of), speed in two.items() if of == kind and is_peer(way))
        for kind in kinds
    ]
    best = " | ".join(f"{rounded(speed)} {way.partition(' ')[0]}" for speed, way in others)
    lines = [
        f"| with two workers | {' | '.join(f'({WORKLOADS[kind].letter})' for kind in kinds)} |",
        "|---|" + "---:|" * len(kinds),
    ]
    for way in (FIVE[0], f"{FIVE[0]}, cached on disk"):
        if any((way, kind) in two for kind in kinds):
            cells = " | ".join(rounded(two.get((way, kind))) for kind in kinds)
            lines.append(f"| {overview.named(way)} | {cells} |")
    lines.append(f"| the best peer | {best} |")
    return "\n".join(lines)


def is_peer(way: str) -> bool:
    return not way.startswith("ours") and way not in CEILINGS


def beside_calls(streaming: dict[str, Any]) -> str:
    """Each way over lancedb's own sequential read, of the same rows in the same run."""
    kinds = [kind for kind in streaming if kind != "machine"]
    ways = [way for way in streaming[kinds[0]] if way.startswith(("ours", "lancedb, bare"))]
    lines = [f"| | {' | '.join(kinds)} |", "|---|" + "---:|" * len(kinds)]
    for way in ways:
        cells = [ratio(streaming[kind], way) for kind in kinds]
        lines.append(f"| {overview.named(way)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ratio(found: dict[str, Any], way: str) -> str:
    if way not in found:
        return "-"
    ours, base = (Result(**found[each]) for each in (way, SEQUENTIAL))
    return f"{ours.ratio(base):.2f}"


def on_disk(cached: dict[str, Any]) -> str:
    """Ways to read one table beside its cache, and first epochs beside the writing."""
    speeds: dict[str, float] = cached["rows_per_second"]
    sequential, ceiling, *_ = speeds.values()
    lines = [
        f"| {cached['rows']:,} rows | rows/s | of the sequential read | of memmap |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {way} | {rounded(speed)} | {speed / sequential:.2f} | {speed / ceiling:.2f} |"
        for way, speed in speeds.items()
    ]
    lines += ["", "| a first epoch, for | time, of one that writes no cache |", "|---|---:|"]
    lines += [f"| {who} | {ratio:.2f} |" for who, ratio in cached["beside_the_writing"].items()]
    return "\n".join(lines)


def main() -> None:
    tables = of_results(RESULTS)
    for page in PAGES:
        page.write_text(filled(page.read_text(), tables))


if __name__ == "__main__":
    main()
