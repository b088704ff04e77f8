# SPDX-License-Identifier: Apache-2.0
"""What every loader in the comparison has in common: its own form on disk, and its ways.

A peer is a module here with a `PEER`. Each delivers the same: batches as ``dict[str, Tensor]`` of
the workload's columns, shuffled, full ones only; documents as one jagged tensor, images decoded.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from workloads import WORKLOADS, Workload

MODULES = (
    "ours",
    "ours_cached",
    "memmap",
    "torch_tensors",
    "lancedb_permutation",
    "lancedb_streaming",
    "pylance",
    "hf_datasets",
    "litdata_",
    "mosaic",
    "webdataset_",
    "grain_",
)


@dataclass(frozen=True)
class Source:
    """The rows of one workload in one number, and the folder for whatever is made of them."""

    kind: str
    rows: int
    root: Path

    @property
    def workload(self) -> Workload:
        return WORKLOADS[self.kind]

    @property
    def columns(self) -> list[str]:
        return list(self.workload.columns)

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.rows}"

    def folder(self, form: str) -> Path:
        """Where one form of these rows lies."""
        return self.root / "forms" / self.name / form

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows in stored order, out of one Arrow file that is made at the first call."""
        path = self.folder("base") / "rows.arrow"
        if not path.exists():
            self._make(path)
        with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as reader:
            for number in range(reader.num_record_batches):
                yield reader.get_batch(number)

    def _make(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        batches = self.workload.make(self.rows)
        first = next(batches)
        with pa.ipc.new_file(unfinished, first.schema) as writer:
            writer.write(first)
            for batch in batches:
                writer.write(batch)
        unfinished.rename(path)


@dataclass(frozen=True)
class Job:
    """What a loader is asked for."""

    source: Source
    workers: int = 0
    batch_size: int = 256

    @property
    def columns(self) -> list[str]:
        return self.source.columns

    @property
    def workload(self) -> Workload:
        return self.source.workload


Loader = Iterable[dict[str, Any]]


@dataclass(frozen=True)
class Way:
    """One way of loading with a peer.

    `open` gives something that every ``iter()`` of is one epoch. `state` gives the state at a row
    (or near it, with the row that was reached), `restore` a loader that goes on from there.
    """

    name: str
    setting: str
    open: Callable[[Job], Loader]
    state: Callable[[Job, int], tuple[Any, int]] | None = None
    restore: Callable[[Job, Any], Loader] | None = None
    kinds: tuple[str, ...] = tuple(WORKLOADS)
    workers: tuple[int, ...] = (0, 2)


@dataclass(frozen=True)
class Peer:
    """A loader: the package it needs, what it stores, and its ways of loading."""

    package: str
    form: str
    write: Callable[[Source, Path], None]
    ways: tuple[Way, ...]
    row_by_row: bool = False
    resume: str = "none"

    def prepare(self, source: Source) -> dict[str, float]:
        """Write the rows in this peer's own form, once; its size and how long that took."""
        folder = source.folder(self.form)
        note = folder.with_suffix(".json")
        if not note.exists():
            for _ in source.batches():  # so that making the rows is not counted
                break
            folder.mkdir(parents=True, exist_ok=True)
            started = time.perf_counter()
            self.write(source, folder)
            seconds = time.perf_counter() - started
            size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            note.write_text(json.dumps({"bytes": size, "seconds": round(seconds, 2)}))
        return json.loads(note.read_text())


def load(module: str) -> Peer:
    """The peer of a module; an import error if what it needs is not installed."""
    return importlib.import_module(f"peers.{module}").PEER


def row_as_state(_: Job, row: int) -> tuple[int, int]:
    """The state of a loader that can be told where to begin."""
    return row, row


def advance(
    job: Job, loader: Loader, row: int, state: Callable[[], Any], seconds: float = 1.5
) -> tuple[Any, int]:
    """The state of a loader that has to be brought to a row, as far as it gets in the time."""
    reached, until = 0, time.perf_counter() + seconds
    for _ in loader:
        reached += job.batch_size
        if reached >= row or time.perf_counter() > until:
            break
    return state(), reached
