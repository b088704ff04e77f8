# SPDX-License-Identifier: Apache-2.0
"""Knows which of a DataLoader's options go with our datasets, and how its workers are started."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from multiprocessing import forkserver
from typing import Any

from torch.utils.data import default_collate

from .sending import check_sendable, name_of

_PRELOAD = "lancedb.integrations._torch.preload"


def start_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """How a loader with these options starts its workers, unless they say so themselves.

    Raises
    ------
    TypeError
        If a function among the options cannot be sent to workers started so.
    """
    if options.get("multiprocessing_context") is not None:
        return {}
    preload_workers()
    for name in ("collate_fn", "worker_init_fn"):
        if "<" in name_of(options.get(name)):  # a lambda, or defined in a function
            check_sendable(name, options[name])
    return {"multiprocessing_context": default_start_method()}


def default_start_method() -> str:
    """``"forkserver"`` where the platform has it, else ``"spawn"``."""
    methods = multiprocessing.get_all_start_methods()
    return "forkserver" if "forkserver" in methods else "spawn"


def preload_workers() -> None:
    """Have the fork server, if it is not running yet, import what every worker needs.

    Workers then start in a fraction of a second, as they are forked off a process that has it
    all, and safely, as that process has no reader. What others asked it to import stays.
    """
    known = list(getattr(forkserver._forkserver, "_preload_modules", ["__main__"]))
    if _PRELOAD not in known:
        forkserver.set_forkserver_preload([*known, _PRELOAD])


def refuse_out_of_order(options: Mapping[str, Any]) -> None:
    """Raise a ValueError if batches would come in another order than they are counted in."""
    if not options.get("in_order", True):
        raise ValueError(
            "in_order=False hands batches out as they come, and a state counts them in order: rows "
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


def as_it_is(batch: Any) -> Any:
    """The collate function for batches that are whole already."""
    return batch


def refuse_sampler(options: Mapping[str, Any]) -> None:
    """Raise for a sampler, also one that a framework gives to a loader that it makes anew."""
    sampler = _sampler_in(options)
    if sampler is not None:
        raise ValueError(
            f"LanceDataLoader brings its own order and deals it to the ranks, and takes no "
            f"{sampler} ({type(options[sampler]).__name__}). Give that to "
            "torch.utils.data.DataLoader; or, if a framework put it in, have it not do so, as by "
            "Lightning's Trainer(use_distributed_sampler=False), and predict or overfit with a "
            "DataLoader"
        )


def _sampler_in(options: Mapping[str, Any]) -> str | None:
    """The option that is a sampler, if there is one."""
    given = (name for name in ("sampler", "batch_sampler") if options.get(name) is not None)
    return next(given, None)
