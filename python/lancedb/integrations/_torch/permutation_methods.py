# SPDX-License-Identifier: Apache-2.0
"""Methods added to lancedb's ``Permutation``: batch access by index, cheap copies, tensors."""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pyarrow as pa
from lancedb.background_loop import LOOP

from .arrow import take
from .common.error_notes import add_note
from .common.process import PROCESS
from .convert import torch_columns as convert
from .table import fork_guard as forking
from .table.blobs import BlobColumns, is_descriptor
from .table.indices import distinct, normalize_indices

_TOO_LITTLE_MEMORY = (
    "lancedb sorts the rows of a random split in 100 MB, too little for some millions of them: set "
    "the environment variable LANCEDB_PERM_BUILDER_MEMORY_LIMIT to more bytes before (2000000000 "
    "for ten million rows), or use split_hash(columns, weights, discard_weight=0), which needs no "
    "such memory"
)


class Alive(weakref.WeakSet[Any]):
    """The permutations of this process."""


def extend(module: ModuleType) -> None:
    """Add to the classes of ``lancedb.permutation``; does nothing the second time.

    Parameters
    ----------
    module : module
        lancedb's own ``permutation`` module, loaded.
    """
    permutation = module.Permutation
    if getattr(permutation, "fetch", None) is fetch:
        return
    permutation.__new__ = staticmethod(_new)
    permutation.fetch = fetch
    permutation.__copy__ = shallow_copy
    builder = module.PermutationBuilder
    builder.execute = _saying_what_to_do(builder.execute)
    module.batch_to_tensor_dict = convert.batch_to_tensor_dict  # type: ignore[attr-defined]
    module.batch_to_tensor_rows = convert.batch_to_tensor_rows  # type: ignore[attr-defined]
    module.batch_to_tensor = convert.batch_to_tensor  # type: ignore[attr-defined]
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_prepare_for_fork)


def _saying_what_to_do(execute: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """lancedb's ``PermutationBuilder.execute``, with a note where it has too little memory."""

    @functools.wraps(execute)
    def executed(self: Any) -> Any:
        try:
            return execute(self)
        except Exception as error:
            if "Not enough memory" in str(error):
                add_note(error, _TOO_LITTLE_MEMORY)
            raise

    return executed


def fetch(self: Any, indices: Any) -> Any:
    """Rows by index, as one batch in the permutation's format.

    Parameters
    ----------
    indices : int sequence, range, slice, numpy array or torch tensor
        In ``[-len(self), len(self))``. Order and duplicates are kept, negatives count from the
        end, and none at all gives an empty batch.

    Returns
    -------
    batch
        What ``with_format`` or ``with_transform`` make of the rows; a list of dicts by default.

    Raises
    ------
    IndexError
        If an index is out of range; the message names it and the length.
    TypeError
        If an index is a float, a bool or anything else that is no whole number.

    Notes
    -----
    Each row is read once, and rows are read in ascending order, whatever order they are asked for
    in, since lancedb reads neighbouring rows together.

    lancedb's runtime does not survive a fork. A forked process, such as a worker that `DataLoader`
    starts by itself on Linux before Python 3.14, reads through a process of its own that was not
    forked, which it starts at its first `fetch`. ``multiprocessing_context="forkserver"`` needs
    no second process. A permutation made, skipped or cut after the fork reads as lancedb does.

    Examples
    --------
    >>> import lancedb
    >>> from lancedb.permutation import Permutation
    >>> db = lancedb.connect("memory://")
    >>> table = db.create_table("points", [{"x": x} for x in range(10)])
    >>> Permutation.identity(table).fetch([3, -1, 3])
    [{'x': 3}, {'x': 9}, {'x': 3}]
    """
    if forking.came_with_a_fork():
        from .table.fork_permutations import reader_of  # which imports torch

        reader = reader_of(self)
        if reader is not None:
            rows = normalize_indices(indices, reader.selection.num_rows)
            return self.transform_fn(reader.read(rows))
    known, places = distinct(normalize_indices(indices, len(self)))
    batch = _take(self, known)
    return self.transform_fn(batch if places is None else take.take(batch, places))


def shallow_copy(self: Any) -> Any:
    """A permutation that shares this one's tables and reader: no row is exported or rebuilt."""
    new = _new(type(self))
    new.__dict__.update(self.__dict__)
    return new


def _new(kind: type, *_: Any, **__: Any) -> Any:
    new = object.__new__(kind)
    PROCESS.part(Alive).add(new)
    return new


def _prepare_for_fork() -> None:
    alive = list(PROCESS.part(Alive))
    if alive and not forking.came_with_a_fork():
        from .table.fork_permutations import note_rows  # which imports torch

        forking.note_use()
        note_rows(alive)


def _take(permutation: Any, offsets: Any) -> pa.RecordBatch:
    permutation._ensure_open()
    # lancedb's identity reader leaves with_skip out when it takes offsets.
    skipped = permutation.offset or 0 if permutation.permutation_table is None else 0
    wanted = (offsets + skipped).tolist()

    try:
        batch = LOOP.run(_read(permutation, wanted, permutation.selection))
    except Exception as error:
        from .table.reader import explained  # which imports torch

        what_to_do = explained(str(error))
        if what_to_do != str(error):
            add_note(error, f"table {permutation.base_table.name!r}: {what_to_do}")
        raise
    if any(map(is_descriptor, batch.schema)):
        table, columns = permutation.base_table, permutation.selection
        blobs = BlobColumns(table, batch.schema, columns, "bytes")
        row_ids = LOOP.run(_read(permutation, wanted, blobs.row_ids))
        batch = LOOP.run(blobs.filled(batch, row_ids))
    if batch.num_rows != len(offsets):
        raise RuntimeError(
            f"{len(offsets)} rows of table {permutation.base_table.name!r} were asked for and "
            f"{batch.num_rows} came back: rows were deleted since the permutation was made"
        )
    return batch


async def _read(permutation: Any, offsets: list[int], columns: Any) -> pa.RecordBatch:
    return await permutation.reader.take_offsets(offsets, selection=columns)
