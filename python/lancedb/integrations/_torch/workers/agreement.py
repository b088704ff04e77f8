# SPDX-License-Identifier: Apache-2.0
"""Arguments that differ between ranks, noticed by what each wrote into the process group's store.

Ranks with other seeds, filters or batch sizes would repeat and lose rows in silence. Nothing waits
for anybody here, as no rank can know which others iterate: the first one writes down what it was
made with, and later ones compare.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch.distributed

from ..common.process import PROCESS
from ..frameworks.private import part_of
from ..frameworks.torch_loader import in_worker
from ..order.state import Position

_HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_FRAMES = 4
_LONGEST = 300  # of a value that is compared as it is


class Made(Counter[str]):
    """How many were made at each place of the program in this process."""


class Agreement:
    """What tells a dataset or loader of one rank apart from others, for all ranks alike.

    That is the line of the program which makes it, those which called that, and how many were made
    there before: a rank that makes more than others, elsewhere, disturbs nothing.
    """

    def __init__(self) -> None:
        place = _place()
        made = PROCESS.part(Made)
        made[place] += 1
        self._key = f"lance/{place}/{made[place]}"
        self._is_checked = False

    def check(
        self,
        world_size: int,
        describe: Callable[[], Mapping[str, Any]],
        at: Position,
    ) -> None:
        """Compare once with what another rank was made with, if one has come here before.

        Parameters
        ----------
        world_size : int
            Over how many ranks the rows are sharded.
        describe : callable
            What has to be equal, by the names of arguments; JSON-serialisable.
        at : Position
            Where this rank begins. Another place than that of the other rank is warned of, as a
            rank may have had a look by itself before.

        Raises
        ------
        ValueError
            If something differs; the message names each such thing, and both values.
        """
        if self._is_checked or world_size < 2 or in_worker():  # whose parent has checked
            return
        store = _store(world_size)
        if store is None:
            return
        self._is_checked = True
        mine = {name: _short(value) for name, value in describe().items()}
        rank = torch.distributed.get_rank()
        here = f"position {at.position} of epoch {at.epoch}"
        theirs = _first(store, self._key, {"rank": rank, "is": mine, "at": here})
        differences = [
            f"{name} is {theirs['is'].get(name)} on rank {theirs['rank']} and {mine[name]} here"
            for name in mine
            if theirs["is"].get(name) != mine[name]
        ]
        if differences:
            raise ValueError(
                f"rank {rank} reads with other arguments than the other ranks, so that rows would "
                f"be repeated and lost: {'; '.join(differences)}. Give every rank the same (a "
                "version= where the table is written to), or its own rank= and world_size="
            )
        if theirs["at"] != here:
            warnings.warn(
                f"rank {rank} begins at {here}, and rank {theirs['rank']} began at {theirs['at']}: "
                "unless that was a look at some batches, rows are repeated and lost. Load the same "
                "state, or name the same epoch, on every rank",
                RuntimeWarning,
                stacklevel=2,
            )


def _first(store: Any, key: str, mine: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the first rank that came here wrote; a store that cannot say so is not heeded."""
    try:
        return json.loads(store.compare_set(key, "", json.dumps(mine)))
    except Exception:  # of the store of whoever made the process group
        return mine


def _store(world_size: int) -> Any:
    """The store of a process group of so many ranks; None if there is none, or none is known."""
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized():
        return None
    if distributed.get_world_size() != world_size:
        return None
    try:
        return part_of(distributed, "distributed_c10d._get_default_store", lambda: None)()
    except Exception:  # as where a backend has no store
        return None


def _place() -> str:
    """A digest of the lines that lead to a constructor, without those of this package."""
    frame, lines = sys._getframe(1), []
    while frame is not None and len(lines) < _FRAMES:
        path = frame.f_code.co_filename
        if not path.startswith(_HERE):
            lines.append(f"{os.path.basename(path)}:{frame.f_lineno}")
        frame = frame.f_back
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _short(value: Any) -> Any:
    """A value as JSON has it; of a long one its beginning, and a digest of all of it."""
    text = json.dumps(value, default=repr)
    if len(text) <= _LONGEST:
        return json.loads(text)
    return f"{text[:40]}... ({hashlib.sha256(text.encode()).hexdigest()[:8]})"
