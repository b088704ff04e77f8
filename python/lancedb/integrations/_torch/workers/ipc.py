# SPDX-License-Identifier: Apache-2.0
"""Tensors that leave a worker process: small ones inside the message that carries a batch.

torch gives each tensor a piece of shared memory of its own and has its descriptor fetched over a
connection made for it: about half a millisecond a tensor, however small. Bytes in the message cost
a tenth of that. For large tensors shared memory is the cheaper way, and stays. Where there is too
little of it torch's error would reach nobody, as a thread of the worker's sends what it made, and
the loader would wait for ever: such tensors travel in files without a name.
"""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.multiprocessing.reductions import reduce_storage, reduce_tensor

from ..common.shared_memory import too_small, unnamed
from ..convert import nested_tensor as nested

# From here on the two ways cost about the same.
_SMALL = 512 << 10
# Numbers of as many bytes, for the types that numpy does not know.
_SAME_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def send_small_tensors_whole() -> None:
    """Have this process send small tensors as bytes from now on; for worker processes only.

    It holds for whatever a worker sends, also for what a transform or a ``collate_fn`` has made.
    """
    ForkingPickler.register(torch.Tensor, _reduce)
    ForkingPickler.register(torch.UntypedStorage, _reduce_storage)
    of_lists = nested.kind()
    if of_lists is not None:
        ForkingPickler.register(of_lists, nested.reduce)


def _reduce(tensor: torch.Tensor) -> Any:
    if not _is_small(tensor):
        return reduce_tensor(tensor)
    values = tensor.resolve_conj().resolve_neg()
    numbers = values.view(_SAME_SIZE.get(values.itemsize, values.dtype)).numpy()
    return _rebuild, (numbers.tobytes(), tensor.dtype, tuple(tensor.shape))


def _reduce_storage(storage: torch.UntypedStorage) -> Any:
    try:
        return reduce_storage(storage)
    except RuntimeError:
        if storage.device.type != "cpu":
            raise
        copy = unnamed(storage)
        try:
            if copy is not None:
                return reduce_storage(copy)
        except RuntimeError:
            pass
        return _missing, (too_small(storage.nbytes()),)


def _missing(reason: str) -> None:
    """Stands for a storage that could not be sent: raises where it arrives."""
    raise RuntimeError(reason)


def _rebuild(data: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    if not data:
        return torch.empty(shape, dtype=dtype, device="cpu")
    # The copy is what makes the tensor writable.
    return torch.frombuffer(bytearray(data), dtype=dtype).view(shape)


def _is_small(tensor: torch.Tensor) -> bool:
    """Whether a few bytes say all there is about a tensor, and nobody shares its memory."""
    return (
        tensor.layout == torch.strided
        and not tensor.is_nested
        and tensor.device.type == "cpu"
        and tensor.nbytes <= _SMALL
        and tensor.is_contiguous()
        and not (tensor.requires_grad or tensor.is_quantized)
        and not tensor.is_shared()
    )
