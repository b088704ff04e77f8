# SPDX-License-Identifier: Apache-2.0
"""The map-style dataset: rows by index, in any order."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
from lancedb.permutation import Permutation
from lancedb.table import Table
from torch.utils.data import Dataset, default_collate

from ..arrow.buffer_pool import release_freed
from ..arrow.large_rows import has_large_rows
from ..arrow.origins import with_origins
from ..arrow.take import take
from ..cache.columns import Cache
from ..convert.collate import NoRows, OpaqueRow, RowBatch, WholeBatch
from ..convert.formats import FORMATS
from ..convert.on_error import OnError
from ..convert.transform import count_rows
from ..frameworks.row_requests import (
    collate_fn_of,
    is_for_default_collate,
    is_for_default_convert,
    is_row_of_another,
    rows_to_come,
)
from ..frameworks.torch_loader import in_worker
from ..order.state import start_of
from ..table.arguments import Given
from ..table.indices import normalize_indices
from .base import READ_TIMEOUT, BatchDataset, TableDataset
from .default_collate import may_be_collated, refuse_what_has_no_tensor
from .epoch_seed import EpochRows, EpochSeed
from .joined import JoinedRows, check_alike, refuse_files
from .keywords import explain_unknown, refuse_override
from .origins import RandomSeed
from .rows_ahead import RowsAhead


class LanceTorchDataset(TableDataset, Dataset):
    """A map-style dataset over a LanceDB table, for `torch.utils.data.DataLoader`.

    It holds a recipe, not a connection: pickling it is cheap and safe, and each worker process
    opens its own reader at its first read. Every process reads the version of the table that the
    dataset was made from, whatever is written meanwhile.

    Parameters
    ----------
    table : LanceTable, RemoteTable or Permutation, optional
        What to read. A permutation's rows, columns, renames, format and transform are taken
        over. Or give `uri` and `table_name`.
    uri, table_name : str, optional
        Where the database is, as for ``lancedb.connect``, and the table in it.
    connect_kwargs : dict, optional
        Further arguments of ``lancedb.connect``, such as ``storage_options``: credentials, and
        how lancedb tries again when an object store fails (``client_max_retries``, ``timeout``).
        They are pickled into workers; see `connection_factory` to avoid that.
    connection_factory : callable of str to Table, optional
        Called with the table's name in every process, returns the table. Must be picklable. With it
        no connection, and so no credential, is pickled. Use it with `table`, or with `table_name`
        alone.
    permutation_table : LanceTable, optional
        Made by ``lancedb.permutation.permutation_builder``: which rows, in which order.
    split : str or int, optional
        A split of `permutation_table`, by name or number. Default: the first one.
    filter : str, optional
        An SQL condition; only rows for which it is true are in the dataset. It is evaluated once,
        when the dataset is made.
    version : int or str, optional
        A version number or a tag, resolved once. Default: the version of `table`, or the newest.
    columns : sequence of str, or mapping of str to str, optional
        The columns to read, in this order (fields of structs as ``"struct.field"``); a mapping
        gives output name -> column or SQL expression. Default: all.
    format : str, optional
        ``"python"`` (default), ``"python_col"``, ``"numpy"``, ``"pandas"``, ``"polars"``,
        ``"arrow"``, ``"torch"``, ``"torch_row"`` or ``"torch_col"``. ``"torch"`` needs no
        ``collate_fn``: the loader's batches are ``dict[str, Tensor]``.
    transform : callable, optional
        Called once per batch: with the batch in `format`, or with the ``pyarrow.RecordBatch`` if no
        format is given. For ``"torch"`` that is the dict of batched columns. What it returns is the
        batch. If it takes two arguments, it is given a `TransformContext` as the second.
    batch_size : int, optional
        Rows in a batch of ``iter(dataset)``, which only makes full batches. Default: 100. A
        `DataLoader` has its own.
    fill_null : scalar or dict of str to scalar, optional
        What replaces nulls in tensors: for every column, or by column name (fields of structs as
        ``"struct.field"``). A value for one column must fit it, and a value for every column must
        fit at least one of them. Default: a null among numbers is a ValueError. Among strings and
        other Python values a null is None, unless their column is named.
    ragged : {"jagged", "pad", "mask", "list"}, default "jagged"
        What a column of variable-length lists of numbers becomes in ``"torch"``: a nested tensor; a
        tensor ``(rows, longest)`` padded with `pad_value`, and with ``"pad"`` the lengths as int64
        in ``<name>_length``, with ``"mask"`` a bool tensor ``<name>_mask`` of the same shape, True
        where there is a value; or a list of tensors. In a batch where all lists of lists have one
        length, they become a tensor ``(rows, a, b)``. In others they are padded in every dimension,
        or become nested tensors if only the outer ones differ, or lists of tensors.
    pad_value : number or dict of str to number, default 0
        What ``ragged="pad"`` and ``"mask"`` pad with: in every column, or by column name.
    pad_to : int, sequence of int, or dict of str to either, optional
        To what length ``ragged="pad"`` and ``"mask"`` pad the innermost lists: a multiple of a
        number, or the smallest of some lengths that the longest list of the batch fits into. A
        longer list is a ValueError when the batch is made. Default: the longest of the batch.
    cache : bool or "auto", default "auto"
        Whether to cache columns in the memory of each process that reads. ``"auto"`` caches the
        narrowest, up to 256 MB (64 MB in a worker process), once the process has read 3 % of the
        rows, as each column costs a separate read for every row. It caches none if under a quarter
        of a stretch of the table is wanted. True caches all columns from the first read on.
    cache_dir : str or path, optional
        A directory on a disk of this machine, created if it does not exist. What is read is written
        there in the background, decoded; from then on every process of this machine takes it from
        there, in this run and later ones. Default: ``LANCEDB_TORCH_CACHE_DIR`` in the environment;
        if it is not set, nothing is written. With a directory, ``cache="auto"`` caches no columns
        in memory.
    cache_bytes : int or str, optional
        The limit on the size of all files in `cache_dir` together: bytes, or a size such as
        ``"500GB"``. Default: what leaves a tenth of the disk free. If a table is larger, as many of
        its first rows as fit are cached.
    unwrap : bool, default False
        Whether ``dataset[i]`` is the row itself rather than a batch of one row, as
        ``ConcatDataset`` and ``StackDataset`` want it. ``iter(dataset)`` then gives every row.
    blobs : {"bytes", "file", "descriptor"}, default "bytes"
        What a blob column (`lancedb.schema.blob`) gives: its bytes, as a ``large_binary`` column
        would; a file for each row, of which only what is read is fetched (None for a null, a list
        of files in ``"torch"``); or the struct of kind, position and size that Lance stores.
    dictionary : {"values", "codes"}, default "values"
        What a dictionary column gives: its values, or int64 codes that mean the same in every
        batch, process and rank; ``categories`` has the values in the order of their codes. For
        codes the column is read once, when the dataset is made.
    seed : int, optional
        The seed of the random numbers of a `transform` with a context, see `TransformContext`;
        `set_epoch` sets their epoch, which is 0 until then. Default: the seed of the
        `LanceDataLoader` that asks for the rows. It does not affect their order.
    on_error : {"raise", "skip"} or callable, default "raise"
        What happens if `transform`, or the conversion to `format` before it, fails on single rows.
        "skip" leaves them out of their batch, which is that much shorter, logs a warning for each,
        and lists them in ``skipped_rows()``. A callable is called with the exception and the row's
        offset instead of the warning, and may raise. The rows still count: no order, position or
        number of steps changes, and a batch with no row left is empty: what `transform` makes of no
        rows or, if it cannot, an empty one in `format`. Each batch that fails is tried again in
        halves, so `transform` must be able to work on fewer rows.

    Other Parameters
    ----------------
    read_timeout : float, default 120
        Seconds to wait until the table is open, and for each read; until then lancedb may try again
        as often as it likes, and after that a RuntimeError names the table and the rows. None for
        no limit.

    Raises
    ------
    ValueError
        If no table is named, arguments contradict each other, or a table, column, split, version
        or format is unknown.
    TypeError
        If an argument is of a wrong type.
    FileNotFoundError
        If there is no database at a local `uri`.
    RuntimeError
        If the storage or the server fails; the message names the table.

    Notes
    -----
    ``dataset_a + dataset_b`` is a `LanceTorchDataset` with the rows of both: it reads whole
    batches, and `LanceDataLoader` resumes it. Both must have the same columns and the same
    `format`, `transform`, `fill_null`, `ragged`, `unwrap` and `on_error`; each has the table,
    version, rows and cache that it was made with. `skipped_rows` then lists indices.

    Torch's ``ConcatDataset`` and datasets of your own ask for one row at a time. In a `DataLoader`
    the rows of a batch are read when the first of them is asked for, up to 16 MB ahead.

    Examples
    --------
    >>> import lancedb
    >>> from torch.utils.data import DataLoader
    >>> db = lancedb.connect("memory://")
    >>> table = db.create_table("points", [{"x": float(i), "y": i % 2} for i in range(100)])
    >>> dataset = LanceTorchDataset(table, columns=["x"], filter="y = 0", format="torch")
    >>> len(dataset)
    50
    >>> batch = next(iter(DataLoader(dataset, batch_size=32, shuffle=True)))
    >>> batch["x"].shape
    torch.Size([32])
    >>> LanceTorchDataset(table)[3]
    [{'x': 3.0, 'y': 1}]
    >>> odd = LanceTorchDataset(table, columns=["x"], filter="y = 1", format="torch")
    >>> len(dataset + odd)
    100
    """

    _reads_by_index = True
    _read_large_rows = False  # the time before

    @explain_unknown
    def __init__(
        self,
        table: Table | Permutation | None = None,
        *,
        uri: Any = None,
        table_name: str | None = None,
        connect_kwargs: Mapping[str, Any] | None = None,
        connection_factory: Callable[[str], Table] | None = None,
        permutation_table: Table | None = None,
        split: str | int | None = None,
        filter: str | None = None,
        version: int | str | None = None,
        columns: Sequence[str] | Mapping[str, str] | None = None,
        format: str | None = None,
        transform: Callable[..., Any] | None = None,
        batch_size: int | None = None,
        fill_null: Any = None,
        ragged: str = "jagged",
        pad_value: Any = 0,
        pad_to: Any = None,
        cache: Cache = "auto",
        cache_dir: Any = None,
        cache_bytes: int | str | None = None,
        unwrap: bool = False,
        blobs: Literal["bytes", "file", "descriptor"] = "bytes",
        dictionary: Literal["values", "codes"] = "values",
        seed: int | None = None,
        on_error: OnError = "raise",
        read_timeout: float | None = READ_TIMEOUT,
    ):
        super().__init__(
            Given(
                table=table,
                uri=uri,
                table_name=table_name,
                connect_kwargs=connect_kwargs,
                connection_factory=connection_factory,
                permutation_table=permutation_table,
                split=split,
                filter=filter,
                version=version,
                columns=columns,
                blobs=blobs,
                dictionary=dictionary,
            ),
            format=format,
            transform=transform,
            fill_null=fill_null,
            ragged=ragged,
            pad_value=pad_value,
            pad_to=pad_to,
            unwrap=unwrap,
            batch_size=batch_size,
            on_error=on_error,
            read_timeout=read_timeout,
            cache=cache,
            cache_dir=cache_dir,
            cache_bytes=cache_bytes,
        )
        self._ahead = RowsAhead()
        self._seed = EpochSeed(seed, is_used=self._output.takes_context)

    def __len__(self) -> int:
        """How many rows there are."""
        return self.num_rows

    @property
    def cache(self) -> Cache:
        """Whether columns are cached in memory; for joined datasets, those of the first."""
        return self._rows.cache

    def __getitem__(self, index: Any) -> Any:
        """A batch of one row, or that row itself with ``unwrap``; a slice or list gives a batch.

        Parameters
        ----------
        index : int, or what `__getitems__` takes
            Negatives count from the end.

        Raises
        ------
        IndexError
            If an index is out of range.
        TypeError
            If an index is not a whole number.
        """
        caller = sys._getframe(1)
        if np.ndim(index) or isinstance(index, (slice, range)):
            batch = self.__getitems__(index)
            collates = may_be_collated(batch) and is_for_default_convert(caller)
            return default_collate(cast(Any, batch)) if collates else batch
        row = int(normalize_indices([index], len(self))[0])
        return self._one(
            row, self.unwrap or is_row_of_another(caller), lambda: rows_to_come(caller)
        )

    def _one(self, row: int, alone: bool, to_come: Callable[[], Any]) -> Any:
        """One row, alone or as a batch, read with those that will be asked for."""
        ahead, place = self._ahead.find(row, len(self), to_come, self._read)
        if alone and self._output.makes_rows_alone(ahead.batch.schema):
            if ahead.rows is None:
                ahead.rows = self._rows_of(ahead.batch)
            if ahead.rows:
                return ahead.rows[place]
        only = np.array([row])
        batch = self._made(take(ahead.batch, np.array([place])), only, self._seed.random)
        return self._only_row(batch) if alone else batch

    def __getitems__(self, indices: Any) -> Any:
        """The rows at these indices as one batch, in that order; duplicates are kept.

        `torch.utils.data.DataLoader` calls this once per batch.

        Parameters
        ----------
        indices : int sequence, range, slice, numpy array or torch tensor
            In ``[-len(self), len(self))``; negatives count from the end.

        Returns
        -------
        batch
            In the dataset's format; for ``"torch"`` a `RowBatch`, whose ``columns`` are what
            ``default_collate`` makes of it. A loader without a ``collate_fn`` passes on batches
            that are not rows (``"python_col"``, ``"pandas"``, ``"polars"``, ``"arrow"``,
            ``"torch_col"``), and arrays of objects, as they are.

        Raises
        ------
        IndexError
            If an index is out of range.
        TypeError
            If an index is not a whole number; or if rows of Python values go to
            ``default_collate``, and a column has times, decimals, nulls, or lists of different
            lengths.
        RuntimeError
            If the storage fails; the message names table, version and rows.
        """
        advice = "override __getitems__, which is given the indices of a batch, or pass transform="
        refuse_override(self, "__getitem__", advice, unless="__getitems__")
        rows = normalize_indices(indices, len(self))
        asked = indices.random if isinstance(indices, EpochRows) else None
        read = self._read(rows)
        are_rows = self.format == "python" and self._output.transform is None
        if are_rows and is_for_default_collate(sys._getframe(1)):
            refuse_what_has_no_tensor(read)
        if self._output.pads:
            collate_fn = collate_fn_of(sys._getframe(1))
            self._output.refuse_padding_twice(collate_fn, read.schema)
        batch = self._made(read, rows, self._seed.within(asked))
        return batch if self.format == "torch" else self._whole(batch, len(rows), sys._getframe(1))

    def __add__(self, other: Any) -> Any:
        """The rows of both as one dataset, which reads whole batches; see `Notes`."""
        if not isinstance(other, LanceTorchDataset):
            return super().__add__(other)
        refuse_files([*self._output.files, *other._output.files])
        check_alike("columns", _types_of(self), _types_of(other))
        check_alike("arguments", _arguments_of(self), _arguments_of(other))
        both: LanceTorchDataset = LanceTorchDataset.__new__(LanceTorchDataset)
        BatchDataset.__init__(both, self._output, self.batch_size, self.unwrap)
        both._rows = JoinedRows([*self._rows.parts, *other._rows.parts])
        both._ahead, both._seed = RowsAhead(), self._seed
        return both

    def _whole(self, batch: Any, count: int, caller: FrameType) -> Any:
        """The batch, or what `default_collate` makes it of if it would take it for no rows."""
        if may_be_collated(batch) or not is_for_default_collate(caller):
            return batch
        return WholeBatch(batch, count)

    def _read(self, rows: np.ndarray) -> pa.RecordBatch:
        stats = self._stats()
        if self._read_large_rows:
            # The allocators of every worker would retain what was made and sent of them, too.
            release_freed()
        with stats.timed("reading"):
            batch = self._rows.begin(rows)()
        if in_worker():  # which sends it to nobody
            self._read_large_rows = has_large_rows(batch)
        stats.add(rows=batch.num_rows, **self._rows.take_counts())
        return batch

    def _rows_of(self, batch: pa.RecordBatch) -> Sequence[Any]:
        """The rows of a batch; none if they cannot all be made, so that each says what is wrong."""
        try:
            rows = self._output(batch, self._stats())
        except (ValueError, TypeError, ArithmeticError):
            return ()
        if self.format != "torch":
            return rows
        return RowBatch(rows, batch.num_rows, self._output.join_lists)

    def _made(self, read: pa.RecordBatch, rows: np.ndarray, random: RandomSeed | None) -> Any:
        """What was read in its format, after the transform."""
        if self._output.takes_context:
            read = with_origins(read, self._rows.origins(rows, random))
        try:
            batch = self._without_bad(self._output(read, self._stats()), rows)
        except Exception as error:
            self._note(error, "making a batch", rows)
            raise
        if self.format != "torch":
            return batch
        changed = count_rows(batch) if self._output.transform else None
        if changed == 0 and len(rows):
            return NoRows(batch, 0)
        return RowBatch(batch, len(rows) if changed is None else changed, self._output.join_lists)

    def set_epoch(self, epoch: int) -> None:
        """Give a `transform` with a context the random numbers of this epoch from now on.

        With a plain `DataLoader`, call it before each epoch; it reaches its workers, even
        persistent ones. A `LanceDataLoader` says by itself which epoch its batches belong to.

        Parameters
        ----------
        epoch : int
            From 0 on.

        Raises
        ------
        ValueError
            If `epoch` is not such a number.
        """
        self._seed.set_epoch(start_of(epoch).epoch)

    def __iter__(self) -> Iterator[Any]:
        """Walk the rows in order, in full batches of ``batch_size`` rows; one by one with `unwrap`.

        What is left over and fills no batch is left out: a `DataLoader` delivers that, too. Single
        rows come all of them, as ``dataset[0]``, ``dataset[1]`` and so on.
        """
        if self.unwrap:
            yield from map(self._next_row, range(len(self)))
            return
        if 0 < len(self) < self.batch_size:
            warnings.warn(
                f"{len(self)} rows are fewer than one batch of {self.batch_size}, and "
                "iter(dataset) makes full batches only: take a DataLoader, or a smaller batch_size",
                stacklevel=2,
            )
        for start in range(0, len(self) - self.batch_size + 1, self.batch_size):
            yield self.__getitems__(range(start, start + self.batch_size))

    def _next_row(self, row: int) -> Any:
        return self._one(row, True, lambda: range(row, min(row + self.batch_size, len(self))))

    def _only_row(self, batch: Any) -> Any:
        rows = count_rows(batch) if self._output.transform is not None else 1
        if rows is not None and rows != 1:
            raise ValueError(
                f"unwrap=True wants one row for one index, and transform made {rows} of it; "
                "return as many rows as it is given, or use unwrap=False"
            )
        row = FORMATS[self.format].row(batch)
        return row.value if isinstance(row, OpaqueRow) else row


def _types_of(dataset: LanceTorchDataset) -> dict[str, Any]:
    return {field.name: field.type for field in dataset.schema}


def _arguments_of(dataset: LanceTorchDataset) -> dict[str, Any]:
    known = dataset._rows.read_categories()
    return {
        **dataset._output.described(),
        "unwrap": dataset.unwrap,
        "seed": dataset._seed.seed,
        **({} if known is None else {"categories": known}),
    }
