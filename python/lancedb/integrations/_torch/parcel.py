# SPDX-License-Identifier: Apache-2.0
"""Knows how tensors leave a worker process: small ones inside the message that carries a batch.

torch gives each tensor a piece of shared memory of its own and has its descriptor fetched over a
connection made for it: about half a millisecond a tensor, however small. Bytes in the message cost
a tenth of that. For large tensors shared memory is the cheaper way, and stays.
"""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch.multiprocessing.reductions import reduce_tensor

# The two ways cost the same at about 512 KB.
_SMALL = 256 << 10


def send_small_tensors_whole() -> None:
    """Have this process send small tensors as bytes from now on; for worker processes only.

    It holds for whatever a worker sends, also for what a transform or a ``collate_fn`` has made.
    """
    ForkingPickler.register(torch.Tensor, _reduce)


def _reduce(tensor: torch.Tensor) -> Any:
    if not _is_small(tensor):
        return reduce_tensor(tensor)
    # A tensor of one element is called contiguous whatever its strides are, until it is copied.
    values = tensor.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    data = values.reshape(-1).view(torch.uint8).numpy().tobytes()
    return _rebuild, (data, tensor.dtype, tuple(tensor.shape))


def _rebuild(data: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    if not data:
        return torch.empty(shape, dtype=dtype)
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
