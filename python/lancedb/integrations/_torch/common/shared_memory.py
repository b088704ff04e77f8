# SPDX-License-Identifier: Apache-2.0
"""Tensors in memory that several processes map, also where ``/dev/shm`` is small.

torch takes shared memory from ``/dev/shm``, which has 64 MB in a container unless it was started
with more. Linux has files without a name beside it, which only the memory itself limits.

torch is imported where something is to be shared: a process that only reads does without.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from .pickling import send_to_new_processes

if TYPE_CHECKING:
    import torch

SHM = "/dev/shm"


class SharedArray:
    """An array that processes which are started map, and do not copy.

    Parameters
    ----------
    array : numpy.ndarray
        Not changed from then on.
    """

    def __init__(self, array: np.ndarray):
        self._array = array
        self._tensor: torch.Tensor | None = None  # over the same memory, once it is shared

    def __getstate__(self) -> tuple[bytes, str]:
        return self._array.tobytes(), self._array.dtype.str

    def __setstate__(self, state: tuple[bytes, str]) -> None:
        data, kind = state
        self.__init__(np.frombuffer(bytearray(data), kind))

    @property
    def array(self) -> np.ndarray:
        """The array, or one over the memory that it shares."""
        return self._array

    def share(self) -> torch.Tensor:
        """The array's memory, once processes can map it."""
        import torch

        if self._tensor is None:
            self._tensor = shared(torch.from_numpy(self._array))
            self._array = self._tensor.numpy()
        return self._tensor


def _mapped(tensor: torch.Tensor) -> SharedArray:
    array = SharedArray(tensor.numpy())
    array._tensor = tensor
    return array


send_to_new_processes(SharedArray, lambda array: (_mapped, (array.share(),)))


def shared(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor itself if its memory is shared, else a copy whose memory is.

    Raises
    ------
    RuntimeError
        If there is no memory for it; with its size, and that of ``/dev/shm``.
    """
    if tensor.is_shared() or tensor.numel() == 0:
        return tensor
    try:
        return tensor.clone().share_memory_()
    except RuntimeError as error:
        storage = unnamed(tensor.untyped_storage())
        if storage is None:
            raise RuntimeError(too_small(tensor.nbytes)) from error
        import torch

        copy = torch.empty(0, dtype=tensor.dtype, device="cpu")
        return copy.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())


def unnamed(storage: torch.UntypedStorage) -> torch.UntypedStorage | None:
    """A copy in a file without a name; None where there are none, or no memory for it."""
    import torch

    create = getattr(os, "memfd_create", None)
    mapped = getattr(torch.UntypedStorage, "_new_shared_fd_cpu", None)
    if create is None or mapped is None:
        return None
    try:
        file = create("lance")
        try:
            os.posix_fallocate(file, 0, storage.nbytes())  # else a write would end the process
            copy = mapped(os.dup(file), storage.nbytes())  # closed with the storage
        finally:
            os.close(file)
    except (OSError, RuntimeError):
        return None
    copy.copy_(storage)
    return copy


def too_small(wanted: int, directory: str = SHM) -> str:
    """What to say where `wanted` bytes of shared memory cannot be had."""
    try:
        found = os.statvfs(directory)
    except OSError:
        size = f"there is no {directory}"
    else:
        total, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
        size = f"{directory} has {_megabytes(total)}, of which {_megabytes(free)} are free"
    return (
        f"there is no shared memory for the {_megabytes(wanted)} of a batch's column: {size}. Give "
        "the container more (docker run --shm-size=2g; in Kubernetes, an emptyDir of medium Memory "
        "mounted there), make smaller batches, or take num_workers=0"
    )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
