# SPDX-License-Identifier: Apache-2.0
"""Several ways of loading timed fairly: one after the other, repeated, the best, as ratios."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from operator import truediv
from pathlib import Path


@dataclass
class Result:
    """Rows a second of one way of loading, over all rounds."""

    name: str
    speeds: list[float] = field(default_factory=list)
    first_batch: list[float] = field(default_factory=list)

    @property
    def speed(self) -> float:
        return max(self.speeds)  # whatever else the machine does only takes time away

    @property
    def spread(self) -> float:
        return (max(self.speeds) - min(self.speeds)) / self.speed

    def ratio(self, other: Result) -> float:
        """To another way's speed, round by round, as both were run close to each other."""
        return statistics.median(map(truediv, self.speeds, other.speeds))


Way = Callable[[], Iterable[int]]


def race(ways: dict[str, Way], rounds: int, seconds: float) -> dict[str, Result]:
    """Run every way in turn, `rounds` times, each for at most `seconds`.

    A way is a function that starts loading and yields the number of rows of each batch. The
    clock starts when it is called, so that opening and the first batch count. One that comes to
    its end is called again, as epochs follow each other in training, until the time is up; the
    epoch under way is finished then, unless that takes as long again. One more round comes before
    them and does not count: it reads the files into the page cache.
    """
    results = {name: Result(name) for name in ways}
    for name, way in ways.items():
        _run(Result(name), way, min(seconds, 0.5))
    for number in range(rounds):
        for name, way in ways.items():
            _run(results[name], way, seconds)
            print(f"round {number + 1}/{rounds}  {name}: {results[name].speeds[-1]:,.0f} rows/s")
    return results


def _run(result: Result, way: Way, seconds: float) -> None:
    started, rows = time.perf_counter(), 0
    now, first = started, None
    while now - started < seconds:
        batches: Iterator[int] = iter(way())
        for count in batches:
            now = time.perf_counter()
            first = now - started if first is None else first
            rows += count
            if now - started > 2 * seconds:
                break
        now = time.perf_counter()
        if isinstance(batches, Generator):
            batches.close()
    result.speeds.append(rows / (now - started))
    result.first_batch.append(first if first is not None else float("nan"))


def table_of(results: dict[str, Result], base: str) -> str:
    """A Markdown table with ratios to one of the ways."""
    lines = [
        f"| way of loading | rows/s (best) | spread | ratio to {base} | first batch, s |",
        "|---|---:|---:|---:|---:|",
    ]
    for result in results.values():
        ratio = result.ratio(results[base])
        first = statistics.median(result.first_batch)
        lines.append(
            f"| {result.name} | {result.speed:,.0f} | {result.spread:.0%} | {ratio:.2f} "
            f"| {first:.2f} |"
        )
    return "\n".join(lines)


def machine() -> dict[str, str | int | None]:
    """What the figures were made on."""
    packages = ("lancedb", "torch", "pyarrow", "numpy")
    return {
        "cpus": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def save(path: Path, title: str, tables: dict[str, str], results: dict[str, dict]) -> None:
    """Write the Markdown tables and the raw figures side by side."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [f"# {title}", "", " ".join(f"{k} {v}" for k, v in machine().items()), ""]
    for name, text in tables.items():
        parts += [f"## {name}", "", text, ""]
    path.with_suffix(".md").write_text("\n".join(parts))
    raw = {
        group: {name: vars(result) for name, result in ways.items()}
        for group, ways in results.items()
    }
    path.with_suffix(".json").write_text(json.dumps({"machine": machine(), **raw}, indent=1))
    plot(path.with_suffix(".png"), title, results)


def plot(path: Path, title: str, results: dict[str, dict[str, Result]]) -> None:
    """Rows a second of every way as bars, a panel for each group, on a logarithmic scale."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    longest = max(len(ways) for ways in results.values())
    size = (10, 0.6 + len(results) * (0.5 + 0.32 * longest))
    figure, axes = plt.subplots(len(results), 1, figsize=size, squeeze=False, layout="constrained")
    for axis, (group, ways) in zip(axes.flat, results.items(), strict=True):
        names = list(ways)[::-1]
        speeds = [ways[name].speed for name in names]
        colors = ["tab:orange" if _is_ours(name) else "tab:gray" for name in names]
        bars = axis.barh(names, speeds, color=colors)
        axis.bar_label(bars, [f"{speed:,.0f}" for speed in speeds], padding=3, fontsize=8)
        axis.set(xscale="log", title=f"{title}: {group}", xlabel="rows/s")
        axis.margins(x=0.15)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _is_ours(name: str) -> bool:
    return name.startswith(("ours", "LanceTorchDataset"))
