# SPDX-License-Identifier: Apache-2.0
"""The figures of README, docs and notes, written into the pages out of the results beside this.

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
import ranks
import report
from measure import Result
from workloads import WORKLOADS

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
PAGES = (
    ROOT / "README.md",
    *(ROOT / f"docs/{name}.md" for name in ("cache", "measured", "mixtures", "tuning", "workers")),
    ROOT / "benchmarks/NOTES.md",
)
SEQUENTIAL = "lancedb, sequential iter(8192)"
RING = "bare take_offsets, io_uring"
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
    names = ("peers", "streaming", "map_style", "mixtures", "disk_cache", "workers", "ranks")
    found = {name: json.loads((folder / f"{name}.json").read_text()) for name in names}
    rows = report.of_workloads(report.rows(found["peers"]))
    return {
        "few": lambda: few(rows),
        "best": lambda: overview.table(rows, rounded),
        "workers": lambda: with_workers(rows),
        "calls": lambda: beside(SEQUENTIAL, found["streaming"], ("ours", "lancedb, bare")),
        "shuffles": lambda: beside(SEQUENTIAL, found["streaming"], ("ours",)),
        "single": lambda: beside(RING, found["map_style"], ("Lance", "lancedb")),
        "mixing": lambda: mixing_report.dated(found["mixtures"], rounded),
        "disk": lambda: on_disk(found["disk_cache"]),
        "processes": lambda: of_processes(found["workers"]),
        "ranks": lambda: by_ranks(found["ranks"]),
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


def beside(base: str, found: dict[str, Any], names: tuple[str, ...]) -> str:
    """Ways that begin with a name, over one of lancedb's own, of the same rows in the same run."""
    kinds = [kind for kind in found if kind != "machine"]
    ways = [way for way in found[kinds[0]] if way.startswith(names)]
    lines = [f"| | {' | '.join(kinds)} |", "|---|" + "---:|" * len(kinds)]
    for way in ways:
        cells = [ratio(found[kind], way, base) for kind in kinds]
        lines.append(f"| {overview.named(way)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ratio(found: dict[str, Any], way: str, base: str) -> str:
    if way not in found:
        return "-"
    one, other = (Result(**found[each]) for each in (way, base))
    return f"{one.ratio(other):.2f}"


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


def of_processes(found: dict[str, float]) -> str:
    """What workers cost, of torch's own loader and of ours."""
    lines = ["| | first batch of two workers, s | MB for each further worker |", "|---|---:|---:|"]
    for name, loader in (
        ("torch", "`DataLoader`, over a dataset of nothing"),
        ("ours", "`LanceDataLoader`, over a table"),
    ):
        cells = [rounded(found[f"{figure} {name} this"]) for figure in ("start", "memory")]
        lines.append(f"| {loader} | {' | '.join(cells)} |")
    return "\n".join(lines)


def by_ranks(found: dict[str, Any]) -> str:
    """Rows a second and memory of ranks, by the workers of each."""
    return ranks.markdown(found, sorted({int(key.split("; ")[3]) for key in found})).rstrip()


def main() -> None:
    tables = of_results(RESULTS)
    for page in PAGES:
        page.write_text(filled(page.read_text(), tables))


if __name__ == "__main__":
    main()
