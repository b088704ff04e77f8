# SPDX-License-Identifier: Apache-2.0
"""MosaicML Streaming: `MDSWriter`, `StreamingDataset`, `StreamingDataLoader`.

docs.mosaicml.com, "Performance Tuning" and "Shuffling": the default algorithm (py1e) is the
advised one, `batch_size` is to be given, and shards of 64 MB are its default.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import numpy as np

from peers import Job, Peer, Source, Way, row_as_state
from peers.batches import Chosen, rows_of

FORM = "mosaic"


def import_base() -> Any:
    """The loader, without what the top of its package imports: torchvision is not there for every
    torch. The script beside this package that has the same name is passed over.
    """
    here = str(Path(__file__).resolve().parents[1])
    spec = PathFinder.find_spec("streaming", [path for path in sys.path if path != here])
    if spec is None:
        raise ImportError("mosaicml-streaming is not installed")
    sys.modules["streaming"] = importlib.util.module_from_spec(spec)
    return importlib.import_module("streaming.base")


base = import_base()


def write(source: Source, folder: Path) -> None:
    batches = source.batches()
    first = next(batches)
    sample = next(rows_of(first, first.schema.names))
    columns = {name: kind(value) for name, value in sample.items()}
    rows = source.workload.fragment_rows
    limit = {"size_limit": rows * size_of(sample)} if rows else {}
    with base.MDSWriter(out=str(folder), columns=columns, **limit) as writer:
        for batch in source.batches():
            for row in rows_of(batch, batch.schema.names):
                writer.write(row)


def kind(value: Any) -> str:
    """The name of its encoding of a value; arrays of one shape need not tell it in every row."""
    if isinstance(value, bytes):
        return "bytes"
    if value.ndim == 0:
        return str(value.dtype)
    if value.dtype == np.int32:
        return "ndarray:int32"
    return f"ndarray:{value.dtype}:{','.join(map(str, value.shape))}"


def size_of(row: dict[str, Any]) -> int:
    return sum(len(value) if isinstance(value, bytes) else value.nbytes for value in row.values())


def open_streaming(job: Job) -> Any:
    dataset = base.StreamingDataset(
        local=str(job.source.folder(FORM)), shuffle=True, batch_size=job.batch_size
    )
    return base.StreamingDataLoader(
        dataset,
        batch_size=job.batch_size,
        num_workers=job.workers,
        drop_last=True,
        collate_fn=Chosen(job.columns),
        persistent_workers=job.workers > 0,
    )


def restore(job: Job, row: int) -> Any:
    loader = open_streaming(job)
    state = loader.dataset.state_dict(num_samples=row, from_beginning=True)
    loader.dataset.load_state_dict(state)
    return loader


PEER = Peer(
    package="mosaicml-streaming",
    form=FORM,
    write=write,
    row_by_row=True,
    resume="exact",
    ways=(
        Way(
            "MosaicML StreamingDataset",
            "shards of 64 MB, `shuffle=True` (py1e), collated by hand",
            open_streaming,
            row_as_state,
            restore,
        ),
    ),
)
