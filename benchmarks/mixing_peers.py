# SPDX-License-Identifier: Apache-2.0
"""Mixtures of four tables by weight: each loader's own way to mix, over the form that it stores.

A loader here gives batches by ``iter()`` (an epoch each), and has ``state_dict()`` and
``load_state_dict()``. What is written and how is in ``peers/``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from mixing_tables import BATCH, WEIGHTS
from peers import Job, Source

SEED = 0


def jobs(parts: Sequence[Source], workers: int) -> list[Job]:
    return [Job(part, workers, BATCH) for part in parts]


def one_table(parts: Sequence[Source], workers: int) -> Any:
    """The same rows in one table, without a mixture."""
    from peers import ours

    return ours.iterable(Job(parts[0], workers, BATCH), "block", cache=False)


def ours(parts: Sequence[Source], workers: int, cached: bool = False) -> Any:
    from lancedb.integrations.torch import (
        LanceDataLoader,
        LanceIterableTorchDataset,
        LanceMixedTorchDataset,
    )
    from peers import lance_table, ours_cached

    def source(job: Job) -> LanceIterableTorchDataset:
        where = ours_cached.where(job)
        folder = where.pop("folder") if cached else job.source.folder(lance_table.FORM)
        return LanceIterableTorchDataset(
            uri=str(folder),
            table_name=lance_table.TABLE,
            columns=job.columns,
            shuffle=True,
            **(where if cached else {}),
        )

    mixture = LanceMixedTorchDataset(
        {str(number): source(job) for number, job in enumerate(jobs(parts, workers))},
        {str(number): weight for number, weight in enumerate(WEIGHTS)},
        batch_size=BATCH,
        format="torch",
        cache=False,
        seed=SEED,
    )
    return LanceDataLoader(mixture, num_workers=workers)


class Iterable:
    """Hugging Face's stream: its own `iter` without workers, torchdata's loader with them."""

    def __init__(self, stream: Any, workers: int):
        from torchdata.stateful_dataloader import StatefulDataLoader

        self.stream, self.epoch = stream.batch(BATCH, drop_last_batch=True), 0
        if workers:
            self.stream = StatefulDataLoader(self.stream, batch_size=None, num_workers=workers)
        self.state_dict = self.stream.state_dict
        self.load_state_dict = self.stream.load_state_dict

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        if hasattr(self.stream, "set_epoch"):
            self.stream.set_epoch(self.epoch)
        self.epoch += 1
        yield from self.stream


def hugging_face(parts: Sequence[Source], workers: int) -> Iterable:
    from datasets import interleave_datasets
    from peers import hf_datasets

    mixed = interleave_datasets(
        [hf_datasets.iterable(job) for job in jobs(parts, workers)],
        probabilities=list(WEIGHTS),
        seed=SEED,
        stopping_strategy="first_exhausted",
    )
    return Iterable(mixed.with_format("torch"), workers)


class InOrder:
    """A map-style dataset in its own order: its state is the next row, kept by hand."""

    def __init__(self, dataset: Any, workers: int):
        self.dataset, self.workers, self.row = dataset, workers, 0

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        starts = range(self.row, len(self.dataset) - BATCH + 1, BATCH)
        batches = [list(range(start, start + BATCH)) for start in starts]
        self.row = self.row if batches else 0
        for batch in torch.utils.data.DataLoader(
            self.dataset,
            batch_size=None,
            sampler=batches,
            collate_fn=dict,
            num_workers=self.workers,
        ):
            self.row += BATCH
            yield batch
        self.row = 0

    def state_dict(self) -> dict[str, int]:
        return {"row": self.row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.row = state["row"]


def hugging_face_mapped(parts: Sequence[Source], workers: int) -> InOrder:
    from datasets import interleave_datasets
    from peers import hf_datasets

    shuffled = [
        hf_datasets.dataset_of(job).shuffle(seed=SEED, keep_in_memory=True)
        for job in jobs(parts, workers)
    ]
    mixed = interleave_datasets(
        shuffled, probabilities=list(WEIGHTS), seed=SEED, stopping_strategy="first_exhausted"
    )
    return InOrder(mixed.with_format("torch"), workers)


def by_hand(parts: Sequence[Source], workers: int) -> dict[str, Any]:
    """For loaders of torch's kind: full batches, collated by a function of ours."""
    from peers.batches import Chosen

    return {
        "batch_size": BATCH,
        "num_workers": workers,
        "drop_last": True,
        "collate_fn": Chosen(parts[0].columns),
    }


def litdata(parts: Sequence[Source], workers: int) -> Any:
    import litdata
    from peers.litdata_ import FORM

    mixed = litdata.CombinedStreamingDataset(
        [
            litdata.StreamingDataset(str(part.folder(FORM)), shuffle=True, drop_last=True)
            for part in parts
        ],
        seed=SEED,
        weights=WEIGHTS,
        iterate_over_all=False,
    )
    return litdata.StreamingDataLoader(mixed, **by_hand(parts, workers))


def mosaic(parts: Sequence[Source], workers: int, batching_method: str) -> Any:
    from peers.mosaic import FORM, base

    # Another loader of this process over the same folders may have left its shared memory.
    base.util.clean_stale_shared_memory()
    dataset = base.StreamingDataset(
        streams=[
            base.Stream(local=str(part.folder(FORM)), proportion=weight)
            for part, weight in zip(parts, WEIGHTS, strict=True)
        ],
        shuffle=True,
        batch_size=BATCH,
        batching_method=batching_method,
    )
    return base.StreamingDataLoader(dataset, **by_hand(parts, workers))


class GrainBatches:
    """Grain's iterator, whose state it is, as a loader."""

    def __init__(self, dataset: Any):
        self.dataset, self.batches, self.state = dataset, None, None

    def __iter__(self) -> Any:
        self.batches = iter(self.dataset)
        if self.state is not None:
            self.batches.set_state(self.state)
            self.state = None
        return self.batches

    def state_dict(self) -> Any:
        return self.batches.get_state()

    def load_state_dict(self, state: Any) -> None:
        self.state = state


def grain(parts: Sequence[Source], workers: int) -> GrainBatches:
    import grain
    from peers import grain_

    each = jobs(parts, workers)
    mixed = grain.MapDataset.mix([grain_.rows_of_job(job) for job in each], WEIGHTS)
    return GrainBatches(grain_.batches_of(mixed, each[0]))


class Gathered:
    """The rows of a batch that was drawn as (table, row), by one gather for each table."""

    def __init__(self, arrays: list[Any]):
        self.arrays = arrays

    def __call__(self, drawn: list[tuple[int, int]]) -> dict[str, torch.Tensor]:
        numbers, rows = (np.array(values) for values in zip(*drawn, strict=True))
        places = [np.flatnonzero(numbers == number) for number in range(len(self.arrays))]
        found = [
            arrays[torch.from_numpy(rows[at])]
            for arrays, at in zip(self.arrays, places, strict=True)
        ]
        back = torch.from_numpy(np.argsort(np.concatenate(places)))
        return {name: torch.cat([each[name] for each in found])[back] for name in found[0]}


def labelled(number: int, row: int) -> tuple[int, int]:
    return number, row


def torchdata(parts: Sequence[Source], workers: int) -> Any:
    from peers.memmap import MappedArrays
    from torch.utils.data import DistributedSampler
    from torchdata import nodes
    from torchdata.nodes.samplers.stop_criteria import StopCriteria

    def source(number: int, part: Source) -> nodes.BaseNode:
        # The sampler that has an order for each epoch, so that a state need not hold it.
        sampler = DistributedSampler(range(part.rows), num_replicas=1, rank=0, seed=SEED)
        return nodes.Mapper(nodes.SamplerWrapper(sampler), partial(labelled, number))

    mixed = nodes.MultiNodeWeightedSampler(
        {str(number): source(number, part) for number, part in enumerate(parts)},
        {str(number): weight for number, weight in enumerate(WEIGHTS)},
        StopCriteria.FIRST_DATASET_EXHAUSTED,
        rank=0,
        world_size=1,
        seed=SEED,
    )
    take = Gathered([MappedArrays(job) for job in jobs(parts, workers)])
    drawn = nodes.Batcher(mixed, BATCH, drop_last=True)
    return nodes.Loader(nodes.ParallelMapper(drawn, take, num_workers=workers))


@dataclass(frozen=True)
class Mixing:
    """A way to mix: what it is called, its package, and the module in ``peers/`` of its form."""

    name: str
    package: str
    forms: str
    setting: str
    open: Callable[[Sequence[Source], int], Any]
    needs: str | None = None
    whole: bool = False  # of one table that has the rows of all


WAYS = (
    Mixing(
        "ours, one table",
        "lancedb",
        "ours",
        "`LanceIterableTorchDataset(shuffle=True, cache=False)` over the rows of all four",
        one_table,
        whole=True,
    ),
    Mixing(
        "ours, from the tables",
        "lancedb",
        "ours",
        "`LanceMixedTorchDataset` of `shuffle=True`, `cache=False`",
        ours,
    ),
    Mixing(
        "ours, cached on disk",
        "lancedb",
        "ours_cached",
        "as above, each source with `cache_dir`, filled",
        partial(ours, cached=True),
    ),
    Mixing(
        "torchdata MultiNodeWeightedSampler",
        "torchdata",
        "memmap",
        "rows drawn one by one from shuffled samplers, batches gathered out of memory-mapped "
        "arrays, as it has no form of its own",
        torchdata,
        needs="torchdata.nodes",
    ),
    Mixing(
        "HF interleave_datasets, iterable",
        "datasets",
        "hf_datasets",
        "`probabilities=`, buffers of 10,000 rows each",
        hugging_face,
        needs="torchdata.stateful_dataloader",
    ),
    Mixing(
        "HF interleave_datasets, map-style",
        "datasets",
        "hf_datasets",
        "`probabilities=` over `.shuffle()`, a batch of row numbers at a time; the state is a row",
        hugging_face_mapped,
    ),
    Mixing(
        "LitData CombinedStreamingDataset",
        "litdata",
        "litdata_",
        "`weights=`, `iterate_over_all=False`, sources with `shuffle=True`, collated by hand",
        litdata,
    ),
    Mixing(
        "MosaicML Stream(proportion=)",
        "mosaicml-streaming",
        "mosaic",
        '`shuffle=True` (py1e), `batching_method="random"`, collated by hand',
        partial(mosaic, batching_method="random"),
    ),
    Mixing(
        "MosaicML Stream(proportion=), stratified",
        "mosaicml-streaming",
        "mosaic",
        'the same with `batching_method="stratified"`: each batch has so many rows of each',
        partial(mosaic, batching_method="stratified"),
    ),
    Mixing(
        "Grain MapDataset.mix",
        "grain",
        "grain_",
        "`weights=` over `MapDataset.shuffle`, collated by hand",
        grain,
    ),
)


def check_installed(way: Mixing) -> None:
    """Import what a way needs; an error if that is not installed."""
    importlib.import_module(f"peers.{way.forms}")
    if way.needs:
        importlib.import_module(way.needs)
