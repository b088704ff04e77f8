# SPDX-License-Identifier: Apache-2.0
"""One way of loading on one workload, measured in a process of its own.

Figures are sent one by one, so that what came before a crash or a time limit is kept.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import psutil
import torch
from peers import Job, Loader, Source, Way, load
from peers.batches import jagged
from workloads import LABELS, SIDE

MIXING_BATCHES = 16 * 20


@dataclass(frozen=True)
class Task:
    """One way of a peer's module, and for how long it is measured."""

    module: str
    way: int
    job: Job
    warm_up: float = 0.4
    seconds: float = 1.0
    mixing_seconds: float = 2.5
    resume: bool = True
    mixing: bool = False


@dataclass(frozen=True)
class Forms:
    """Rows that a peer is to write in its own form."""

    module: str
    sources: tuple[Source, ...]


def write_forms(forms: Forms, results: Connection) -> None:
    """Write the peer's own form of all that is asked for; one that fails stops no other."""
    for source in forms.sources:
        try:
            results.send({source.name: load(forms.module).prepare(source)})
        except Exception as error:
            results.send({source.name: {"error": f"{type(error).__name__}: {error}"[:200]}})
    results.send(None)


def measure(task: Task, results: Connection) -> None:
    """First batch, speed, processor time, mixing and resume, each sent when it is known."""
    way = load(task.module).ways[task.way]
    if task.job.workload.ragged:
        jagged([[0], [0, 0]])  # torch imports much at the first one; imports are not counted
    run = Run(way, task.job)
    results.send({"first_batch": run.first_batch})
    check(task.job, run.batch)
    run.for_seconds(task.warm_up)
    results.send(speed(run, task.seconds))
    if task.mixing:
        results.send(mixing(run, task.mixing_seconds))
    if task.resume and way.state is not None:
        run.close()
        results.send(resume(way, task.job))
    results.send(None)  # whoever is still at work is ended with this process


class Run:
    """A loader that is iterated from epoch to epoch."""

    def __init__(self, way: Way, job: Job):
        started = time.perf_counter()
        self.job, self.labels = job, []
        self.loader: Loader = way.open(job)
        self.batches: Iterator[Any] = iter(self.loader)
        self.next()
        self.first_batch = time.perf_counter() - started

    def next(self) -> None:
        try:
            self.batch = next(self.batches)
        except StopIteration:
            self.batches = iter(self.loader)
            self.batch = next(self.batches)
        self.labels.append(self.batch["label"].numpy().copy())

    def for_seconds(self, seconds: float, batches: float = float("inf")) -> int:
        """Go on for a time, or for so many batches; the rows that came."""
        before, until = len(self.labels), time.perf_counter() + seconds
        while time.perf_counter() < until and len(self.labels) - before < batches:
            self.next()
        return sum(map(len, self.labels[before:]))

    def close(self) -> None:
        del self.batch, self.batches, self.loader
        gc.collect()


def check(job: Job, batch: dict[str, torch.Tensor]) -> None:
    """That what came is what the workload asks for, or the comparison would be worth nothing."""
    problem = problem_of(job, batch)
    if problem is not None:
        raise ValueError(f"the first batch has {problem}")


def problem_of(job: Job, batch: dict[str, torch.Tensor]) -> str | None:
    if sorted(batch) != sorted(job.columns):
        return f"columns {sorted(batch)}"
    if not all(isinstance(column, torch.Tensor) for column in batch.values()):
        return "columns that are no tensors"
    if any(column.shape[0] != job.batch_size for column in batch.values()):
        return "another number of rows"
    if not torch.equal(batch["label"].long(), batch["id"].long() * LABELS // job.source.rows):
        return "labels that do not belong to their ids"
    if "image" in batch and tuple(batch["image"].shape[1:]) != (SIDE, SIDE, 3):
        return f"images of shape {tuple(batch['image'].shape)}"
    if "tokens" in batch and not batch["tokens"].is_nested:
        return "documents that are not jagged"
    return None


def speed(run: Run, seconds: float) -> dict[str, float]:
    """Rows a second, and seconds of processor time of all processes per million rows."""
    processor, started = processor_seconds(), time.perf_counter()
    rows = run.for_seconds(seconds)
    elapsed = time.perf_counter() - started
    used = processor_seconds() - processor
    # What a process has used that ended meanwhile is not known, and would be subtracted.
    known = {"cpu": used / rows * 1e6} if used > 0 else {}
    return {"speed": rows / elapsed, **known}


def processor_seconds() -> float:
    this = psutil.Process()
    total = 0.0
    for process in [this, *this.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def mixing(run: Run, seconds: float) -> dict[str, float | None]:
    """Label counts per batch, and per 16 batches in a row, against those of a true shuffle."""
    run.for_seconds(seconds, MIXING_BATCHES - len(run.labels))
    labels = run.labels[:MIXING_BATCHES]
    return {
        "mixing_1": variance_ratio(labels, 1, run.job.source.rows),
        "mixing_16": variance_ratio(labels, 16, run.job.source.rows),
    }


def variance_ratio(labels: list[np.ndarray], batches: int, rows: int) -> float | None:
    """The variance of label counts over that of sampling without replacement; none for too few."""
    groups = len(labels) // batches
    if groups < 2:
        return None
    counts = np.array(
        [
            np.bincount(np.concatenate(labels[at * batches : (at + 1) * batches]), minlength=LABELS)
            for at in range(groups)
        ]
    )
    size, share = counts[0].sum(), 1 / LABELS
    ideal = size * share * (1 - share) * (1 - (size - 1) / (rows - 1))
    return float(((counts - size * share) ** 2).mean() / ideal)


def resume(way: Way, job: Job) -> dict[str, float]:
    """From a state in mid-epoch to its first batch, and how deep in the epoch that was."""
    assert way.state is not None
    assert way.restore is not None
    half = job.source.rows // 2 // job.batch_size * job.batch_size
    state, row = way.state(job, half)
    gc.collect()
    started = time.perf_counter()
    next(iter(way.restore(job, state)))
    return {"resume": time.perf_counter() - started, "resumed_at": row / job.source.rows}
