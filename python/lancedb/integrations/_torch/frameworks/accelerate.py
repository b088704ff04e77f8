# SPDX-License-Identifier: Apache-2.0
"""Accelerate's loaders: those that would shard our batches a second time, and what they must know.

``Accelerator.prepare``, which `transformers.Trainer` calls too, puts a loader of its own in place
of a plain ``DataLoader``. With several processes one of them then reads for all, or each takes
its part of every stream, while the streams of this package are parts already.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from torch.utils.data import IterableDataset

from .private import part_of


class AcceleratorIteration:
    """One iteration of a loader, as Accelerate's own loaders show theirs.

    Accelerate closes an accumulation of gradients at the last batch of the loader that is being
    iterated. It would count on from there into the next epoch where no end is reported.

    Parameters
    ----------
    loader : DataLoader
        It is reported to Accelerate only if `Accelerator.prepare` was given it.
    """

    # Rows that fill up the last batch, which `gather_for_metrics` would cut off: there are none.
    remainder = 0

    def __init__(self, loader: Any):
        self.end_of_dataloader = False
        # The class says the same, so that `prepare` leaves a loader alone; it then says so of the
        # loader itself.
        self._prepared = "_is_accelerate_prepared" in vars(loader)
        self._begun = False

    def begin(self) -> None:
        """Become the iteration that Accelerate asks, once; it has a weak reference alone."""
        if self._begun:
            return
        self._begun = True
        gradients = gradient_state()
        if self._prepared and gradients is not None:
            part_of(gradients, "_add_dataloader", _nothing)(self)

    def end(self) -> None:
        """Let Accelerate ask the iteration around this one again, if there is one."""
        gradients = gradient_state()
        if self._prepared and gradients is not None:
            part_of(gradients, "_remove_dataloader", _nothing)(self)


def gradient_state() -> Any:
    """What Accelerate knows of loaders under way; None if it is not in use in this process."""
    accelerate = sys.modules.get("accelerate.state")
    if not part_of(accelerate, "GradientState._shared_state"):
        return None
    return accelerate.GradientState()  # type: ignore[union-attr]


def _nothing(iteration: Any) -> None:
    """In place of a method that this version of Accelerate does not have."""


def refuse_second_sharding(dataset: IterableDataset) -> None:
    """Raise if the loader of Accelerate that is being iterated would lose or mix up batches.

    Raises
    ------
    RuntimeError
        If it shards the dataset's batches over processes again, or makes batches of batches.
    """
    loader = _loader_of_accelerate()
    if loader is None:
        return
    inner = part_of(loader, "dataset")
    sharded_again = type(inner).__name__ == "IterableDatasetShard"
    if sharded_again:
        inner = part_of(inner, "dataset")
    if inner is not dataset:
        return
    kind = type(loader).__name__
    if sharded_again or (kind == "DataLoaderDispatcher" and _num_processes() > 1):
        raise RuntimeError(
            f"Accelerate's {kind} would shard this dataset's batches over the processes once more, "
            "and lose most of them: a LanceIterableTorchDataset gives each process its own "
            "already. Pass a LanceDataLoader to prepare(), which leaves it as it is, or none"
        )
    if part_of(loader, "batch_size") is not None:
        raise RuntimeError(
            f"Accelerate's {kind} would make batches of {loader.batch_size} whole batches: a "
            "LanceIterableTorchDataset yields batches, so use LanceDataLoader(dataset), or "
            "DataLoader(dataset, batch_size=None). For transformers.Trainer take the map-style "
            "LanceTorchDataset"
        )


def refuse_blind_skip(dataset: IterableDataset) -> None:
    """Raise if `skip_first_batches` made the loader, of an epoch that nobody has named.

    Raises
    ------
    RuntimeError
        If so: the batches would be those of another epoch.
    """
    loader = _loader_of_accelerate()
    if type(loader).__name__ == "SkipDataLoader" and part_of(loader, "dataset") is dataset:
        raise RuntimeError(
            "skip_first_batches() makes a loader that knows nothing of epochs: call "
            "set_epoch() on the LanceDataLoader before it, or, better, load_state_dict(), which "
            "reads nothing of what is skipped. transformers.Trainer, which does neither, resumes "
            "with the map-style LanceTorchDataset as its train_dataset"
        )


def makes_batches_of(frame: FrameType, loader: Any) -> bool:
    """Whether a frame makes a loader of another loader's dataset, with its batch size.

    Accelerate's ``skip_first_batches`` would make batches of whole batches.
    """
    maker = frame.f_globals.get("__name__") == "accelerate.data_loader"
    return maker and isinstance(loader.dataset, IterableDataset)


def _loader_of_accelerate() -> Any:
    """Accelerate's loader under way, if it is one that `prepare` or `skip_first_batches` made."""
    gradients = gradient_state()
    loader = part_of(gradients, "active_dataloader")
    return None if isinstance(loader, AcceleratorIteration) else loader


def _num_processes() -> int:
    state = part_of(sys.modules["accelerate.state"], "PartialState")
    return part_of(state and state(), "num_processes", 1)
