# SPDX-License-Identifier: Apache-2.0
"""A ``DataLoader``'s options: which of them go with our datasets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.data import default_collate

from ..common.checks import whole_number
from ..workers.processes import as_it_is


def refuse_out_of_order(options: Mapping[str, Any]) -> None:
    """Raise a ValueError if batches would come in another order than they are counted in."""
    if not options.get("in_order", True):
        raise ValueError(
            "in_order=False delivers batches as they come, and a state counts them in order: rows "
            "would be repeated and lost at a resume. Leave in_order out"
        )


def for_whole_batches(options: Mapping[str, Any], **owned: Any) -> dict[str, Any]:
    """A loader's options over a dataset that makes whole batches by itself.

    Parameters
    ----------
    options : mapping
        What torch's loader is to be given.
    **owned
        What only a dataset of rows would need of the loader.

    Raises
    ------
    ValueError
        If one of them belongs to the dataset, or would make something else of its batches.
    """
    sampler = _sampler_in(options)
    if sampler is not None:
        raise ValueError(
            f"LanceIterableTorchDataset has its own order and takes no {sampler}: give that to "
            "torch.utils.data.DataLoader over a LanceTorchDataset"
        )
    owned["drop_last"] = options.get("drop_last")
    given = [name for name, value in owned.items() if value is not None]
    if given:
        raise ValueError(
            f"{', '.join(given)} belong{'s' if len(given) == 1 else ''} to the dataset: give "
            f"{'it' if len(given) == 1 else 'them'} to LanceIterableTorchDataset"
        )
    collate = options.get("collate_fn")
    if collate is default_collate:
        raise ValueError(
            "collate_fn=default_collate makes batches out of rows, and those of "
            "LanceIterableTorchDataset are whole already: leave collate_fn out"
        )
    # torch's default would look at every value of a batch for numpy arrays to convert.
    return {**options, "batch_size": None, "collate_fn": as_it_is if collate is None else collate}


def refuse_sampler(options: Mapping[str, Any]) -> None:
    """Raise for a sampler, also one that a framework gives to a loader that it makes anew."""
    sampler = _sampler_in(options)
    if sampler is not None:
        raise ValueError(
            f"LanceDataLoader brings its own order and shards it over the ranks, and takes no "
            f"{sampler} ({type(options[sampler]).__name__}). Give that to "
            "torch.utils.data.DataLoader; or, if a framework put it in, have it not do so, as by "
            "Lightning's Trainer(use_distributed_sampler=False), and predict or overfit with a "
            "DataLoader"
        )


def _sampler_in(options: Mapping[str, Any]) -> str | None:
    """The option that is a sampler, if there is one."""
    given = (name for name in ("sampler", "batch_sampler") if options.get(name) is not None)
    return next(given, None)


def check_prefetch_factor(factor: Any, num_workers: int) -> None:
    """Raise for what torch fails over once it has begun."""
    if factor is None:
        return
    whole_number("prefetch_factor", factor, 1)
    if not num_workers:
        raise ValueError(
            f"prefetch_factor={factor} is for workers, and num_workers is 0: leave it out"
        )
