# SPDX-License-Identifier: Apache-2.0
"""torch's own ``DataLoader``: which worker this is, and batches that it would batch again."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

from torch.utils.data import default_collate, get_worker_info

from .frames import self_of
from .private import part_of

FETCHER = "torch.utils.data._utils.fetch"
_WORKER = "torch.utils.data._utils.worker"


def warn_of_batches_of_batches() -> None:
    """Warn if a plain ``DataLoader`` begins to iterate, and would collate whole batches.

    torch tells a dataset nothing of its loader; the frame that calls ``__iter__`` is torch's own,
    and knows it.
    """
    fetcher = self_of(sys._getframe(2), FETCHER)
    batches = part_of(fetcher, "auto_collation")
    if batches and part_of(fetcher, "collate_fn") is default_collate:
        warnings.warn(
            "a LanceIterableTorchDataset yields whole batches, and this DataLoader makes batches "
            "of batches of them: use LanceDataLoader(dataset), or DataLoader(dataset, "
            "batch_size=None)",
            stacklevel=3,
        )


def workers_are_persistent() -> bool:
    """Whether this worker process stays for the next epoch; True where torch does not say."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == _WORKER:
            return bool(frame.f_locals.get("persistent_workers", True))
        frame = frame.f_back
    return True


def loads_where_it_begins(caller: FrameType) -> bool:
    """Whether torchdata's loader loads a state: in ``iter``, not when it was given it."""
    return caller.f_globals.get("__name__", "").startswith("torchdata.")


def this_worker() -> tuple[int, int]:
    """This DataLoader worker's number and how many there are; 0 of 1 outside of workers."""
    info = get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)


def process_number() -> int:
    """0 for the main process, w + 1 for DataLoader worker w: its row in what they share."""
    return this_worker()[0] + 1 if in_worker() else 0


def in_worker() -> bool:
    """Whether this is a DataLoader worker process."""
    return get_worker_info() is not None
