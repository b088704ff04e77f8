# SPDX-License-Identifier: Apache-2.0
"""Batches of this process's own dataset, without what torch's iterator adds.

torch opens a region for the profiler around every batch, whether anybody profiles or not, and goes
through a sampler and a fetcher that have nothing to do where batches come whole. Delivering a batch
takes 16 microseconds that way and 3 without.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.autograd.profiler import record_function

from ..frameworks.private import part_of

# Traces are searched for the part before the number sign.
_REGION = "enumerate(DataLoader)#LanceDataLoader.__next__"


class InProcess:
    """Batches of a dataset in the place of torch's own iterator over it, without workers.

    Parameters
    ----------
    batches : iterator
        Over whole batches.
    collate : callable
        What the loader makes of each.
    """

    def __init__(self, batches: Iterator[Any], collate: Callable[[Any], Any]):
        self._batches = batches
        self._collate = collate
        self._is_profiled = part_of(torch.autograd, "_profiler_enabled", bool)

    def __iter__(self) -> InProcess:
        return self

    def __next__(self) -> Any:
        if not self._is_profiled():
            return self._collate(next(self._batches))
        with record_function(_REGION):
            return self._collate(next(self._batches))


def draw_seed(generator: torch.Generator | None) -> None:
    """Draw what torch draws for each iterator to seed workers with.

    So what a model draws from then on is the same with any number of workers.
    """
    torch.empty((), dtype=torch.int64, device="cpu").random_(generator=generator)


def on_the_cpu() -> contextlib.AbstractContextManager[Any]:
    """A context in which torch's iterators make the tensors that they need for themselves.

    torch makes them on the program's default device, on which they may have no value, or for which
    the loader's generator is not.
    """
    if torch.get_default_device().type == "cpu":
        return contextlib.nullcontext()
    return torch.device("cpu")
