# SPDX-License-Identifier: Apache-2.0
"""Knows which other loaders would deal a dataset's batches once more, or make batches of them.

``Accelerator.prepare``, which `transformers.Trainer` calls too, puts a loader of its own in place
of a plain ``DataLoader``. With several processes one of them then reads for all, or each keeps
its part of every stream, while the streams of this package are parts already. And Ray's loader
asks for a batch before the one in hand is used.
"""

from __future__ import annotations

import sys
import warnings
from types import FrameType
from typing import Any

from torch.utils.data import IterableDataset, default_collate
from torch.utils.data._utils.fetch import _BaseDatasetFetcher

from .turn import Turn, gradient_state


def refuse_second_deal(dataset: IterableDataset) -> None:
    """Raise if the loader of Accelerate that is being iterated would lose or mix up batches.

    Raises
    ------
    RuntimeError
        If it deals the dataset's batches to processes again, or makes batches of batches.
    """
    loader = _loader_of_accelerate()
    if loader is None:
        return
    inner = loader.dataset
    dealt_again = type(inner).__name__ == "IterableDatasetShard"
    if dealt_again:
        inner = inner.dataset
    if inner is not dataset:
        return
    kind = type(loader).__name__
    if dealt_again or (kind == "DataLoaderDispatcher" and _num_processes() > 1):
        raise RuntimeError(
            f"Accelerate's {kind} would deal this dataset's batches to the processes once more, "
            "and lose most of them: a LanceIterableTorchDataset gives each process its own "
            "already. Pass a LanceDataLoader to prepare(), which leaves it as it is, or none"
        )
    if loader.batch_size is not None:
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
    if type(loader).__name__ == "SkipDataLoader" and loader.dataset is dataset:
        raise RuntimeError(
            "skip_first_batches() makes a loader that knows nothing of epochs: call "
            "set_epoch() on the LanceDataLoader before it, or, better, load_state_dict(), which "
            "reads nothing of what is skipped. transformers.Trainer, which does neither, resumes "
            "with the map-style LanceTorchDataset as its train_dataset"
        )


def warn_of_batches_of_batches() -> None:
    """Warn if a plain ``DataLoader`` begins to iterate, and would collate whole batches.

    torch tells a dataset nothing of its loader; the frame that calls ``__iter__`` is torch's own,
    and knows it.
    """
    fetcher = self_of(sys._getframe(2), _BaseDatasetFetcher.__module__)
    if not isinstance(fetcher, _BaseDatasetFetcher):
        return
    if fetcher.auto_collation and fetcher.collate_fn is default_collate:
        warnings.warn(
            "a LanceIterableTorchDataset yields whole batches, and this DataLoader makes batches "
            "of batches of them: use LanceDataLoader(dataset), or DataLoader(dataset, "
            "batch_size=None)",
            stacklevel=3,
        )


def runs_ahead() -> bool:
    """Whether it is the loader of Ray's ``prepare_data_loader`` that begins to iterate a loader."""
    wrapper = self_of(sys._getframe(2), "ray.train.torch.train_loop_utils")
    return type(wrapper).__name__ == "_WrappedDataLoader"


def refuse_state_ahead() -> None:
    """Raise, as a state that Ray's loader has run past would leave a batch out.

    Raises
    ------
    RuntimeError
        Always.
    """
    raise RuntimeError(
        "Ray's prepare_data_loader() has asked for one batch more than it has handed out, so a "
        "state in mid-epoch would leave that batch out: iterate the LanceDataLoader itself, which "
        "deals rows to Ray's workers already, or use prepare_data_loader(move_to_device=False)"
    )


def _loader_of_accelerate() -> Any:
    """Accelerate's loader under way, if it is one that `prepare` or `skip_first_batches` made."""
    gradients = gradient_state()
    loader = None if gradients is None else gradients.active_dataloader
    return None if isinstance(loader, Turn) else loader


def self_of(frame: FrameType, module: str) -> Any:
    """The object whose method a frame runs, None if the method is of another module.

    The locals of a user's function are not looked at: a frame that was asked for them keeps them
    alive for as long as it runs.
    """
    return frame.f_locals.get("self") if frame.f_globals.get("__name__") == module else None


def _num_processes() -> int:
    return sys.modules["accelerate.state"].PartialState().num_processes
