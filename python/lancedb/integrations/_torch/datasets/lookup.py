# SPDX-License-Identifier: Apache-2.0
"""`LanceLookup`: rows of another table by key, or by vector, inside of a transform."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from lancedb.permutation import Permutation
from lancedb.table import Table

from ..arrow import take
from ..cache.recent_rows import RecentRows
from ..common.checks import one_of, shown, whole_number
from ..common.counters import Stats
from ..common.per_process import PerProcess
from ..convert.transform import Output
from ..table import fork_guard as forking
from ..table.arguments import Given, View, resolve
from ..table.columns import check_column
from ..table.handle import empty_batch, opened
from ..table.indices import distinct
from ..table.key_index import KeyIndex, as_keys, key_type, read_keys
from ..table.nearest import NONE_FOUND, Nearest, check_vectors, vector_columns
from ..table.reader import Reader
from .base import READ_TIMEOUT, seconds
from .keywords import explain_unknown
from .neighbours import chosen, nested, refuse_jagged
from .pinned_rows import sent_view

_METRICS = (None, "l2", "cosine", "dot")


class LanceLookup:
    """A pinned, picklable handle on a table, for use inside a `transform`.

    Rows come by key (`fetch`) or by vector (`nearest`): a batch's images, its features, its hard
    negatives. Every process reads the version that was current when the lookup was made. Its pickle
    says how to reopen the table; each process opens it at its first call, and several threads may
    use it at once. Forked workers read through a process of their own that was not forked.

    Parameters
    ----------
    table : LanceTable or RemoteTable, optional
        What to read. Or give `uri` and `table_name`.
    key : str, optional
        The column by whose values rows are fetched: whole numbers, strings or bytes, each in one
        row. Its values are read once, when the lookup is made, and cached in memory, sorted: they
        take as many bytes as the column and 8 for each row, and the workers of a loader map one
        copy. Rows whose key is null are not found. Default: rows are fetched by their offset in the
        table version, which needs no memory.
    columns : sequence of str, or mapping of str to str, optional
        As for `LanceTorchDataset`: what a batch has. Default: all.
    version : int or str, optional
        A version number or a tag, resolved once. Default: the version of `table`, or the newest.
    format : str, default "torch"
        As for `LanceTorchDataset`.
    uri, table_name, connect_kwargs, connection_factory : optional
        As for `LanceTorchDataset`.
    missing : {"raise", "null"}, default "raise"
        What happens to a key that no row has. "raise" is a KeyError that names it. "null" is a row
        of nulls, for which tensors need `fill_null`; `contains` says which rows those are. In
        `nearest` it says what happens to places for which there are too few rows.
    fill_null, ragged, pad_value, pad_to, blobs : optional
        As for `LanceTorchDataset`, except that a blob cannot be a file.
    cache_bytes : int, default 67_108_864
        Arrow bytes of the rows read last that each process caches, so that popular keys are not
        read again. 0 caches none.
    read_timeout : float, default 120
        As for `LanceTorchDataset`: seconds to wait until the table is open, and for each read.

    Raises
    ------
    ValueError
        As for `LanceTorchDataset`; and if a key is in more than one row, which the message names.
    TypeError
        If an argument is of a wrong type, or keys are not whole numbers, strings or bytes.

    Examples
    --------
    >>> import lancedb
    >>> import pyarrow as pa
    >>> from lancedb.integrations.torch import LanceLookup
    >>> vectors = pa.array([[0.0, 0.0], [1.0, 0.0], [5.0, 5.0]], pa.list_(pa.float32(), 2))
    >>> items = pa.table({"sku": ["a", "b", "c"], "price": [1, 2, 3], "vector": vectors})
    >>> table = lancedb.connect("memory://").create_table("items", items)
    >>> lookup = LanceLookup(table, key="sku", columns=["sku", "price"])
    >>> lookup.fetch(["c", "a", "c"])["price"].tolist()
    [3, 1, 3]
    >>> lookup.nearest([[0.9, 0.0]], 2)["sku"]
    [['b', 'a']]
    """

    @explain_unknown
    def __init__(
        self,
        table: Table | None = None,
        *,
        key: str | None = None,
        columns: Sequence[str] | Mapping[str, str] | None = None,
        version: int | str | None = None,
        format: str = "torch",
        uri: Any = None,
        table_name: str | None = None,
        connect_kwargs: Mapping[str, Any] | None = None,
        connection_factory: Callable[[str], Table] | None = None,
        missing: Literal["raise", "null"] = "raise",
        fill_null: Any = None,
        ragged: str = "jagged",
        pad_value: Any = 0,
        pad_to: Any = None,
        blobs: Literal["bytes", "descriptor"] = "bytes",
        cache_bytes: int = 64 << 20,
        read_timeout: float | None = READ_TIMEOUT,
    ):
        forking.refuse_while_importing_main()
        if isinstance(table, Permutation):
            raise TypeError("table must be a table, not a Permutation: pass its base table")
        if missing not in ("raise", "null"):
            raise ValueError(f"missing must be 'raise' or 'null', not {missing!r}")
        one_of("blobs", blobs, ("bytes", "descriptor"))
        given = Given(
            table=table,
            uri=uri,
            table_name=table_name,
            connect_kwargs=connect_kwargs,
            connection_factory=connection_factory,
            version=version,
            columns=columns,
            blobs=blobs,
        )
        self.key = key
        self.missing = missing
        self._view: View = resolve(given, seconds("read_timeout", read_timeout))
        self._output = Output(format, None, fill_null, ragged, pad_value, pad_to)
        if self._output.makes_tensors:
            self._output.check(empty_batch(self._view.schema))
        self._cache_bytes = whole_number("cache_bytes", cache_bytes, 0)
        self._open: PerProcess[_Opened] = PerProcess()
        self._index: KeyIndex | None = None
        recipe = self._view.recipe
        stored = opened(recipe).table
        self._vectors = vector_columns(stored.schema)
        if key is not None:
            _check_key(key, stored.schema)
            self._index = read_keys(stored, key)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_view": sent_view(self._view)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        forking.note_use()

    def __len__(self) -> int:
        """How many rows the table version has."""
        return self._view.selection.num_rows

    def __repr__(self) -> str:
        table, columns = self._view.recipe.describe(), list(self._view.columns)
        return f"{type(self).__name__}({table}, key={self.key!r}, {columns=})"

    @property
    def table_name(self) -> str:
        """The table's name."""
        return self._view.recipe.name

    @property
    def version(self) -> int | None:
        """The table version that every process reads; None for a ``memory://`` table."""
        return self._view.recipe.version

    def contains(self, keys: Any) -> np.ndarray:
        """Which of the given keys a row has.

        Parameters
        ----------
        keys : sequence of int, str or bytes, numpy array or tensor
            As for `fetch`.

        Returns
        -------
        numpy.ndarray of bool, shape (len(keys),)
        """
        return self._offsets(keys)[0] >= 0

    def fetch(self, keys: Any) -> Any:
        """The rows that have these keys, as one batch in that order; duplicates are kept.

        Those that are not cached are read in one call.

        Parameters
        ----------
        keys : sequence of int, str or bytes, numpy array or tensor
            Values of the column `key`, or offsets if there is no `key`. No row has the key None.

        Returns
        -------
        batch
            In the lookup's format; a dict of columns for ``"torch"``.

        Raises
        ------
        KeyError
            If no row has a key, which the message names, unless ``missing="null"``.
        TypeError
            If keys are not a sequence, or not of the type of the column.
        RuntimeError
            If the storage fails; the message names table, version and rows.
        """
        offsets, given = self._offsets(keys)
        absent = np.flatnonzero(offsets < 0)
        if len(absent) and self.missing == "raise":
            first = given[int(absent[0])].as_py()
            if first is None and isinstance(keys, (list, tuple, np.ndarray)):
                first = keys[int(absent[0])]  # beyond what the key's type holds
            others = f", nor {len(absent) - 1} others of these {len(given)}"
            more = others if len(absent) > 1 else ""
            raise KeyError(
                f"{self._of_key()} {first!r} is not in {self._view.recipe.describe()}{more}; "
                "missing='null' gives a row of nulls for it"
            )
        return self._made(self._rows(offsets))

    def nearest(
        self,
        vectors: Any,
        k: int,
        *,
        column: str | None = None,
        exclude: Any = None,
        filter: str | None = None,
        metric: Literal["l2", "cosine", "dot"] | None = None,
    ) -> Any:
        """The `k` nearest rows of each of several vectors, with one search for all of them.

        This is lancedb's own search: approximate, with the column's vector index, if there is one;
        otherwise exact, with a look at all vectors.

        Parameters
        ----------
        vectors : tensor, numpy array or sequence, shape (n, dimensions)
            The vectors whose neighbours are wanted, on any device.
        k : int
            How many neighbours for each.
        column : str, optional
            The column of vectors. Default: the only one there is.
        exclude : sequence, optional
            For each vector a key, or a sequence of keys, that is not wanted: its own, and those
            that are known to be right. Keys that no row has exclude nothing.
        filter : str, optional
            An SQL condition on the rows.
        metric : {"l2", "cosine", "dot"}, optional
            Default: that of the index, or "l2".

        Returns
        -------
        batch
            In the lookup's format, with a further column ``_distance`` (float32), nearest first.
            For ``"torch"`` each column has the shape (n, k, ...), for ``"python"`` there are n
            lists of k rows, and for ``"python_col"`` n lists of k values a column. The other
            formats have n * k rows, those of the first vector first.

        Raises
        ------
        ValueError
            If there are fewer than `k` rows for a vector, unless ``missing="null"``: then the rest
            are nulls, and their distance is infinite. If `vectors` have another shape, or a column
            in ``"torch"`` has lists of different lengths, which need ``ragged="pad"``.
        TypeError
            If `exclude` or `filter` is of a wrong type.
        RuntimeError
            If the search fails; the message names the table.
        """
        k = whole_number("k", k, 1)
        name = check_vectors(self._vectors, column)
        wanted = _as_vectors(vectors, name, self._vectors[name])
        if metric not in _METRICS:
            raise ValueError(f"metric must be 'l2', 'cosine' or 'dot', not {metric!r}")
        if filter is not None and not isinstance(filter, str):
            raise TypeError(f"filter must be an SQL condition, not {filter!r}")
        refuse_jagged(self.format, self._output, self.schema)
        if "_distance" in self.schema.names:
            raise ValueError(
                "nearest() adds a column '_distance', and the lookup has one: give it another name "
                "or leave it out with columns="
            )
        excluded = self._excluded(exclude, len(wanted))
        most = k + max(map(len, excluded), default=0)
        found = self._search(Nearest(wanted, most, name, filter, metric))
        offsets, distances = chosen(found, excluded, k)
        if (offsets < 0).any() and self.missing == "raise":
            short = int(np.flatnonzero((offsets < 0).any(axis=1))[0])
            count = int((offsets[short] >= 0).sum())
            raise ValueError(
                f"vector {short} has {count} nearest rows of k={k} in "
                f"{self._view.recipe.describe()}: ask for fewer, exclude or filter less, or take "
                "missing='null' for nulls in place of the others"
            )
        rows = self._rows(offsets.ravel()).append_column("_distance", pa.array(distances.ravel()))
        return nested(self._made(rows), self.format, len(wanted), k)

    @property
    def format(self) -> str:
        """The format of the batches."""
        return self._output.format

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the rows, before `format`."""
        known = self._view.schema
        return self._opened().reader().schema if known is None else known

    def _of_key(self) -> str:
        return "offset" if self.key is None else f"key {self.key} ="

    def _offsets(self, keys: Any) -> tuple[np.ndarray, pa.Array]:
        """Where the rows of some keys stand, -1 for those that no row has, and the keys."""
        if self.key is None:
            given = as_keys(keys, pa.int64())
            offsets = given.fill_null(-1).to_numpy(zero_copy_only=False)
            return np.where((offsets >= 0) & (offsets < len(self)), offsets, -1), given
        if self._index is None:  # it was not sent
            with self._opened().lock:
                self._index = self._index or self._read_index()
        given = as_keys(keys, self._index.type)
        return self._index.find(given), given

    def _read_index(self) -> KeyIndex:
        key = str(self.key)
        if forking.came_with_a_fork():
            return self._opened().keys(key)
        return read_keys(opened(self._view.recipe).table, key)

    def _rows(self, offsets: np.ndarray) -> pa.RecordBatch:
        """The rows at some offsets, copied; those at -1 are nulls."""
        if not len(offsets):
            return empty_batch(self.schema)
        known = offsets >= 0
        wanted, places = distinct(offsets[known]) if known.any() else (offsets[:0], None)
        opened = self._opened()
        batch = opened.recent.read(wanted, opened.read)
        places = np.arange(len(wanted)) if places is None else places
        if known.all():
            return take.take(batch, places)
        numbers = np.zeros(len(offsets), np.int64)
        numbers[known] = places
        return _with_nulls(batch, pa.array(numbers, mask=~known))

    def _made(self, rows: pa.RecordBatch) -> Any:
        return self._output(rows, self._opened().stats)

    def _excluded(self, exclude: Any, count: int) -> list[np.ndarray]:
        """For each vector the offsets that are not wanted."""
        if exclude is None:
            return [np.zeros(0, np.int64)] * count
        must = f"exclude must have a key, or a sequence of keys, for each of {count} vectors"
        exclude = exclude.tolist() if hasattr(exclude, "tolist") else exclude
        if isinstance(exclude, (str, bytes)) or not hasattr(exclude, "__iter__"):
            raise TypeError(f"{must}, not {exclude!r}")
        exclude = list(exclude)
        if len(exclude) != count:
            raise ValueError(f"{must}, and has {len(exclude)}")
        lists = [
            [each] if isinstance(each, (str, bytes)) or not hasattr(each, "__iter__") else each
            for each in exclude
        ]
        lists = [list(getattr(each, "tolist", lambda each=each: each)()) for each in lists]
        offsets = self._offsets([key for keys in lists for key in keys])[0]
        ends = np.cumsum([len(keys) for keys in lists])
        return [np.unique(part[part >= 0]) for part in np.split(offsets, ends[:-1])]

    def _search(self, asked: Nearest) -> pa.RecordBatch:
        if not len(asked.vectors) or not len(self):
            return NONE_FOUND
        try:
            return self._opened().reader().in_time(lambda handle: handle.nearest(asked), "done")
        except (RuntimeError, ValueError, OSError) as error:
            condition = "" if asked.filter is None else f" with filter={asked.filter!r}"
            count, table = len(asked.vectors), self._view.recipe.describe()
            raise RuntimeError(
                f"searching {table} for the nearest of {count} vectors{condition} failed: {error}"
            ) from error

    def _opened(self) -> _Opened:
        """What this process has open; a forked one has nothing of its parent's."""
        return self._open.get(lambda: _Opened(self._view, self._cache_bytes))


class _Opened:
    """What one process has of a lookup: the open table, and the rows that it read last."""

    def __init__(self, view: View, cache_bytes: int):
        self.lock = threading.RLock()
        self.recent = RecentRows(cache_bytes)
        self.stats = Stats()
        self._view = view
        self._reader: Reader | None = None

    def reader(self) -> Reader:
        """Opened, at the first call."""
        with self.lock:
            if self._reader is None:
                view = self._view
                self._reader = Reader(view.recipe, view.selection, view.columns)
            return self._reader.open()

    def read(self, offsets: np.ndarray) -> pa.RecordBatch:
        """The rows at ascending offsets, in one call."""
        if not len(offsets):
            return empty_batch(self.reader().schema)
        return self.reader().begin_offsets(offsets, None, None).in_order()

    def keys(self, name: str) -> KeyIndex:
        """The index of a column, read row by row as this process has to."""
        reader = Reader(self._view.recipe, self._view.selection, {"key": name})
        offsets = np.arange(self._view.selection.num_rows)
        return KeyIndex(reader.read(offsets).column(0), offsets, name)


def _check_key(key: Any, schema: pa.Schema) -> None:
    """Raise unless `key` is a column that rows can be looked up by."""
    check_column(key, schema)
    if key not in schema.names:
        raise ValueError(f"key={key!r} must be a column of its own: there are {schema.names}")
    key_type(key, schema.field(key).type)


def _as_vectors(vectors: Any, name: str, size: int) -> np.ndarray:
    """Vectors as float32 of shape (n, dimensions)."""
    if hasattr(vectors, "detach"):
        vectors = vectors.detach().cpu().float().numpy()
    try:
        found = np.asarray(vectors, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"vectors must be numbers of the shape (n, {size}), as column {name!r} has, not "
            f"{shown(vectors)}"
        ) from error
    if found.shape == (0,):
        return found.reshape(0, size)
    if found.ndim != 2 or found.shape[1] != size:
        raise ValueError(
            f"vectors must have the shape (n, {size}), as column {name!r} has, not {found.shape}"
        )
    return np.ascontiguousarray(found)


def _with_nulls(batch: pa.RecordBatch, places: pa.Array) -> pa.RecordBatch:
    """Rows of a batch, and nulls where a place is null."""
    columns = [
        column.take(places) if batch.num_rows else pa.nulls(len(places), column.type)
        for column in batch.columns
    ]
    fields = [field.with_nullable(True) for field in batch.schema]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields, batch.schema.metadata))
