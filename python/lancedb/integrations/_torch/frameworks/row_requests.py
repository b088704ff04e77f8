# SPDX-License-Identifier: Apache-2.0
"""The torch loader that asks a map-style dataset for rows, as far as its frames show it.

torch tells a dataset nothing of its loader, and `ConcatDataset` asks for rows one by one. The frame
of torch's fetcher has the indices of the whole batch and what is to be made of it. Whatever is not
found there is taken not to be known.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import torch.utils.data as torch_data

from .torch_loader import FETCHER

_LOADERS = ("torch.utils.data", "torchdata.")
_DATASETS = torch_data.Dataset.__module__
_MADE_OF_OTHERS = (torch_data.ConcatDataset, torch_data.StackDataset)
# Classes of a user's own may stand between torch's fetcher and a dataset, each with a few calls.
_MOST_FRAMES = 16


def collate_fn_of(caller: FrameType | None) -> Callable[[Any], Any] | None:
    """What the loader that asks for rows calls with them; None if no loader of torch's asks.

    A `Subset` and its kind may stand between, no class of a user's own.
    """
    for frame in _frames(caller):
        if not frame.f_globals.get("__name__", "").startswith(_LOADERS):
            return None
        collate = getattr(frame.f_locals.get("self"), "collate_fn", None)
        if collate is not None:
            return collate
    return None


def is_for_default_collate(caller: FrameType | None) -> bool:
    """Whether rows are for `default_collate`."""
    return collate_fn_of(caller) is torch_data.default_collate


def is_for_default_convert(caller: FrameType | None) -> bool:
    """Whether a batch is for a loader with ``batch_size=None`` that was given no ``collate_fn``."""
    return collate_fn_of(caller) is torch_data.default_convert


def is_row_of_another(caller: FrameType | None) -> bool:
    """Whether a dataset that is made of others asks for one row, to make its own row of it."""
    for frame in _frames(caller):
        if frame.f_globals.get("__name__") != _DATASETS:
            return False
        if isinstance(frame.f_locals.get("self"), _MADE_OF_OTHERS):
            return True
    return False


def rows_to_come(caller: FrameType | None) -> Sequence[int] | None:
    """The rows that the batch under way takes from the dataset that is asked for one, in order.

    What torch's own datasets make of an index is followed; a class of a user's own is taken to
    leave it as it is.

    Returns
    -------
    sequence of int, or None
        None if no fetcher of torch's is asking. Indices may be out of range.
    """
    between: list[tuple[Any, Any]] = []
    for frame in _frames(caller):
        module = frame.f_globals.get("__name__", "")
        if module == FETCHER and "possibly_batched_index" in frame.f_locals:
            rows = frame.f_locals["possibly_batched_index"]
            return _through(between, rows) if isinstance(rows, list) else None
        if module == _DATASETS:
            wrapper, part = (frame.f_locals.get(name) for name in ("self", "dataset_idx"))
            if not between or between[-1][0] is not wrapper:
                between.append((wrapper, part))
    return None


def _through(between: list[tuple[Any, Any]], rows: list[Any]) -> list[Any] | None:
    """What the datasets between, the innermost first, make of a loader's indices."""
    for wrapper, part in reversed(between):
        if isinstance(wrapper, torch_data.Subset):
            rows = [wrapper.indices[row] for row in rows]
        elif isinstance(wrapper, torch_data.ConcatDataset):
            if not isinstance(part, int):
                return None
            rows = _of_part(wrapper, rows, wrapper.datasets[part])
    return rows


def _of_part(whole: torch_data.ConcatDataset, rows: list[int], part: Any) -> list[int]:
    """The rows of one of the datasets in a concatenation, which may be there several times."""
    ends = list(whole.cumulative_sizes)
    starts = [0, *ends]
    rows = [row + ends[-1] if row < 0 else row for row in rows]
    numbers = [bisect.bisect_right(ends, row) for row in rows]
    return [
        row - starts[number]
        for row, number in zip(rows, numbers, strict=True)
        if number < len(ends) and whole.datasets[number] is part
    ]


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    for _ in range(_MOST_FRAMES):
        if frame is None:
            return
        yield frame
        frame = frame.f_back
