# SPDX-License-Identifier: Apache-2.0
"""Nested tensors made, taken apart and sent without the imports of torch's own ways.

torch's public function, asked for the first time in a process, imports five hundred modules, and
its compiler, too, if it is given the lengths: three quarters of a second and one and a half of
processor time, in each worker, and once more where what they send arrives. The class itself needs
none of them.
"""

from __future__ import annotations

import functools
import inspect
import sys
from typing import Any

import numpy as np
import torch

# The lengths of the shortest and the longest list; None where there is no list.
Ends = tuple[int, int] | None
_ENDS = ("min_seqlen", "max_seqlen")


def make(values: torch.Tensor, offsets: torch.Tensor, lengths: np.ndarray) -> torch.Tensor:
    """A nested tensor that knows its longest list: torch pads to all values together if not.

    Parameters
    ----------
    values : torch.Tensor
        Those of all lists, one after the other.
    offsets : torch.Tensor of int64
        Where each list begins, and the last one ends.
    lengths : numpy.ndarray
        Of the lists.
    """
    ends = (int(lengths.min()), int(lengths.max())) if len(lengths) else None
    return _make(values, offsets, ends)


def reduce(tensor: torch.Tensor) -> Any:
    """How to pickle a nested tensor: by what `make` made it of, else as torch does."""
    parts = _parts(tensor) if _can_be_made_at_once() else None
    return tensor.__reduce_ex__(2) if parts is None else (_make, parts)


def row(tensor: Any, index: int) -> torch.Tensor:
    """A row of a nested tensor, as ``tensor[index]``, which would make all rows for it."""
    made = kind()
    parts = _parts(tensor) if made is not None and isinstance(tensor, made) else None
    if parts is None:
        return tensor[index]
    values, offsets, _ = parts
    start, stop = offsets[index : index + 2].tolist()
    return values[start:stop]


def kind() -> type | None:
    """The class of nested tensors; None if this torch's is none that is known here."""
    if not _can_be_made_at_once():
        return None
    from torch.nested._internal.nested_tensor import NestedTensor

    return NestedTensor


def _make(values: torch.Tensor, offsets: torch.Tensor, ends: Ends) -> torch.Tensor:
    make = _made_at_once if _can_be_made_at_once() else _made_by_torch
    return make(values, offsets, ends)


def _made_by_torch(values: torch.Tensor, offsets: torch.Tensor, ends: Ends) -> torch.Tensor:
    make = torch.nested.nested_tensor_from_jagged
    if ends is None or not _takes_lengths():
        return make(values, offsets=offsets)
    return make(values, offsets=offsets, min_seqlen=ends[0], max_seqlen=ends[1])


def _made_at_once(values: torch.Tensor, offsets: torch.Tensor, ends: Ends) -> torch.Tensor:
    """As `_made_by_torch` in a third of the time: as torch's operations make their results."""
    from torch.nested._internal.nested_tensor import NestedTensor

    known = {
        name: torch.zeros(end, 0, dtype=torch.float32, device="cpu")
        for name, end in zip(_ENDS, ends or (), strict=False)
    }
    if "torch._dynamo" in sys.modules:
        # Somebody compiles models: the constructor tells the compiler that both lengths vary.
        return NestedTensor(values, offsets, _metadata_cache=known)
    nested = NestedTensor(values, offsets)
    nested._metadata_cache.update(known)
    return nested


def _parts(tensor: Any) -> tuple[torch.Tensor, torch.Tensor, Ends] | None:
    """What `_made_at_once` would make the same tensor of; None if it would make another."""
    known = [tensor._metadata_cache.get(name) for name in _ENDS]
    plain = tensor._lengths is None and tensor._ragged_idx == 1 and not tensor.requires_grad
    if not plain or any(end is None for end in known):
        return None
    return tensor._values, tensor._offsets, (known[0].shape[0], known[1].shape[0])


@functools.cache
def _takes_lengths() -> bool:
    """Whether torch takes the shortest and the longest length, as from 2.5 on."""
    return "max_seqlen" in inspect.signature(torch.nested.nested_tensor_from_jagged).parameters


@functools.cache
def _can_be_made_at_once() -> bool:
    """Whether this torch's class is as expected, which is no part of its public interface."""
    values, offsets, ends = (
        torch.arange(5, device="cpu"),
        torch.tensor([0, 2, 5], device="cpu"),
        (2, 3),
    )
    try:
        made: Any = _made_at_once(values, offsets, ends)
        its_values, its_offsets, its_ends = _parts(made) or (None, None, None)
        known = (made._get_min_seqlen(), made._get_max_seqlen())
        return its_values is values and its_offsets is offsets and its_ends == known == ends
    except Exception:
        return False
