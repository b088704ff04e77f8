# SPDX-License-Identifier: Apache-2.0
"""The base of all datasets: their output, what is counted of them, how they are pickled."""

from __future__ import annotations

import dataclasses
import pickle
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from ..cache.columns import Cache, check_cache
from ..cache.directory import cache_settings
from ..common.checks import one_of, whole_number
from ..common.counters import Counts, Stats
from ..common.pickling import send_to_new_processes
from ..convert.blob_files import BlobSource
from ..convert.on_error import OnError, Partial, SkippedRows
from ..convert.packed import PackedRows
from ..convert.transform import Output
from ..frameworks.torch_loader import process_number
from ..order.steps import Steps
from ..table import fork_guard as forking
from ..table.arguments import Given, View, resolve
from ..table.handle import empty_batch
from ..table.reader import Reader
from ..table.selection import AllRows
from ..workers.start import preload_workers
from .joined import JoinedRows
from .keywords import refuse_to_change
from .pinned_rows import PinnedRows
from .step_orders import StepOrder

# How long a dataset waits by default. Longer than what lancedb sits out by itself, and well below
# the ten minutes after which the other ranks of a distributed run give up.
READ_TIMEOUT = 120.0


# What datasets of other packages are asked for by a method, and these by an argument.
_ELSEWHERE = {
    "shuffle": "pass shuffle=True, seed=1 where it is made, to LanceIterableTorchDataset, or to "
    "the LanceDataLoader of a LanceTorchDataset",
    "map": "pass transform= where it is made, which is called once a batch",
    "with_transform": "pass transform= where it is made",
    "set_transform": "pass transform= where it is made",
    "filter": "pass filter=, an SQL condition, where it is made",
    "select": "pass filter= where it is made, or take torch.utils.data.Subset",
    "select_columns": "pass columns= where it is made",
    "remove_columns": "pass columns= where it is made",
    "rename_column": "pass columns={new: old} where it is made",
    "with_format": "pass format= where it is made",
    "set_format": "pass format= where it is made",
    "categories": "pass dictionary='codes' where it is made",
    "batch": "pass batch_size= where it is made",
    "shard": "ranks and workers are sharded already; rank= and world_size= say otherwise",
    "split": "pass split= and permutation_table= where it is made",
    "train_test_split": "make splits by lancedb.permutation.permutation_builder, and pass split=",
    "take": "pass filter= where it is made, or a Permutation.with_take",
    "skip": "pass filter= where it is made, or a Permutation.with_skip",
}


def _preloaded(dataset: Any) -> Any:
    """As a pickle has it; a plain DataLoader sends its dataset first, then starts the server."""
    preload_workers()
    return dataset.__reduce_ex__(pickle.DEFAULT_PROTOCOL)


class BatchDataset:
    """What becomes of record batches, and what was counted: all that needs no table.

    Parameters
    ----------
    output : Output
        What becomes of each record batch.
    batch_size : int
        Rows of one rank's batch.
    unwrap : bool
        Whether a batch of one row is that row.
    """

    _default_batch_size = 100

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        send_to_new_processes(cls, _preloaded)

    def __init__(self, output: Output, batch_size: Any, unwrap: bool):
        self._output = output
        self.batch_size = whole_number("batch_size", batch_size, 1)
        self.unwrap = one_of("unwrap", unwrap, (False, True))
        self._begin_use()

    def _begin_use(self) -> None:
        """Begin with nothing opened, read or counted."""
        self._counts = Counts()
        self._skipped = SkippedRows()
        forking.note_use()

    def __getstate__(self) -> dict[str, Any]:
        self._output.check_sendable()
        return dict(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        forking.note_use()

    def __getattr__(self, name: str) -> Any:
        hint = _ELSEWHERE.get(name)
        also = f": {hint}" if hint else ""
        raise AttributeError(f"{type(self).__name__} has no {name!r}{also}", name=name, obj=self)

    def __setattr__(self, name: str, value: Any) -> None:
        refuse_to_change(self, name)
        super().__setattr__(name, value)

    @property
    def format(self) -> str:
        """The format of the batches."""
        return self._output.format

    def _arguments(self, order: StepOrder, layout: Any) -> dict[str, Any]:
        """What every rank has to be given alike."""
        return {
            **order.arguments,
            "columns": self.column_names,
            "format": self.format,
            **order.describe(layout),
        }

    def _share_counts(self, processes: int) -> None:
        """Count in shared memory, worker w as process w + 1, so that all can be summed."""
        if self._counts.share(processes):
            self._skipped.share(processes)

    def skipped_rows(self) -> list[int]:
        """Offsets, in the table version that is read, of the rows that `on_error` left out.

        Each is listed once, ascending; at most the first 1,000 of each worker process. Rows left
        out in workers are known here only with `LanceDataLoader`.

        Returns
        -------
        list of int
        """
        return self._skipped.offsets()

    def stats(self) -> dict[str, Any]:
        """What this dataset has done so far in this process.

        Returns
        -------
        dict
            ``rows`` that batches were made of, and ``cached_rows`` that were not read from the
            table for them; ``bytes`` (Arrow bytes) that were read from the table, and
            ``cached_bytes`` that came out of this process's memory or off `cache_dir`; rows
            ``skipped`` by `on_error`, counted each time; seconds spent ``reading``,
            ``converting`` and ``transforming`` (summed over threads), and ``waiting``: the time the
            consumer stood still until a batch was ready. Of one table ``reader`` names what finds
            single rows and short runs in this process: ``"pylance"`` or ``"lancedb"``.
        """
        return {**self._counts.totals(), **self._reading()}

    def _reading(self) -> dict[str, str]:
        """What finds rows, where that is known."""
        return {}

    def _stats_for(self, loader: Any) -> dict[str, Any]:
        """As `stats`, but only what was counted for one of the loaders over this dataset."""
        return {**self._counts.of(loader), **self._reading()}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._described())})"

    def _stats(self) -> Stats:
        """The totals that this process adds to; a forked worker has others than its parent."""
        return self._counts.here(process_number())

    def _without_bad(self, batch: Any, rows: np.ndarray) -> Any:
        """The batch, once what was left out of it is counted, listed and reported."""
        if not isinstance(batch, Partial):
            return batch
        offsets = self._offsets(rows)
        self._stats().add(skipped=len(batch.bad))
        self._skipped.report(batch, offsets, self._output.on_error, process_number())
        return batch.batch

    @property
    def column_names(self) -> list[str]:
        """The names of the columns, as the batches have them."""
        raise NotImplementedError

    def _offsets(self, rows: Any) -> np.ndarray:
        """Where some rows stand in the table version that is read."""
        raise NotImplementedError

    def _note(self, error: Exception, doing: str, rows: Any) -> None:
        """Have an error's traceback say which rows of which table it came from."""
        raise NotImplementedError

    def _described(self) -> list[str]:
        raise NotImplementedError


class TableDataset(BatchDataset):
    """Batches of the rows of a pinned table."""

    _rows: PinnedRows | JoinedRows
    _reads_by_index = False  # or ahead

    def __init__(
        self,
        given: Given,
        *,
        format: str | None,
        transform: Callable[..., Any] | None,
        fill_null: Any,
        ragged: str,
        pad_value: Any,
        pad_to: Any,
        unwrap: bool,
        batch_size: int | None,
        on_error: OnError,
        read_timeout: float | None,
        cache: Cache,
        cache_dir: Any,
        cache_bytes: Any,
        packed: PackedRows | None = None,
    ):
        forking.refuse_while_importing_main()
        settings = cache_settings(cache_dir, cache_bytes)
        view = resolve(given, seconds("read_timeout", read_timeout))
        if format is None and transform is None:
            format, transform = view.format, view.transform
        # What is not used need not be pickled, nor can it always be.
        view = dataclasses.replace(view, transform=None)
        files = _files_of(view)
        output = Output(
            format, transform, fill_null, ragged, pad_value, pad_to, on_error, files, packed
        )
        if output.makes_tensors:
            output.check(empty_batch(view.schema))
        if batch_size is None:
            batch_size = view.batch_size or self._default_batch_size
        super().__init__(output, batch_size, unwrap)
        by_index, cache = self._reads_by_index, check_cache(cache)
        self._rows = PinnedRows(
            view,
            settings,
            cache=cache if by_index else False,
            blobs_are_late=not by_index and cache is not True,
            names_blobs=by_index and given.columns is not None,
        )
        if self.num_rows == 0:
            rows = f"{view.selection.describe()} of {view.recipe.describe()}"
            warnings.warn(f"this dataset is empty: {rows}", stacklevel=4)

    @property
    def table_name(self) -> str:
        """The table's name."""
        return self._rows.table_name

    @property
    def version(self) -> Any:
        """The table version that every process reads; None for a ``memory://`` table.

        Of datasets that were joined by ``+`` a tuple.
        """
        return self._rows.version

    @property
    def num_rows(self) -> int:
        """How many rows the dataset has, over all ranks and workers, after `filter` and `split`."""
        return self._rows.num_rows

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of the rows, before `format` and `transform`."""
        return self._output.schema_of(self._rows.read_schema())

    @property
    def column_names(self) -> list[str]:
        """The names of the columns, as the batches have them."""
        return self._rows.column_names

    @property
    def categories(self) -> dict[str, list[Any]]:
        """The values of each dictionary column in the order of their codes.

        With ``dictionary="codes"``: all values that rows of the table version have, sorted, so that
        codes are the same in every process and for every filter and split. A version with other
        values has other codes: keep the categories beside a model that was trained with them.

        Returns
        -------
        dict of str to list
            Column name -> values: ``categories["label"][code]`` is the value of a code.

        Raises
        ------
        AttributeError
            With ``dictionary="values"``.

        Examples
        --------
        >>> import lancedb
        >>> labels = pa.array(["cat", "dog", "cat"]).dictionary_encode()
        >>> db = lancedb.connect("memory://")
        >>> table = db.create_table("pets", pa.table({"label": labels}))
        >>> from lancedb.integrations.torch import LanceTorchDataset
        >>> dataset = LanceTorchDataset(table, format="torch", dictionary="codes")
        >>> dataset.__getitems__([0, 1, 2]).columns["label"]
        tensor([0, 1, 0])
        >>> dataset.categories
        {'label': ['cat', 'dog']}
        """
        known = self._rows.read_categories()
        if known is None:
            raise AttributeError("categories")  # what to do about it is said by __getattr__
        return known

    @property
    def _perm(self) -> Reader | None:
        """This process's open reader; None until its first read."""
        return self._rows.here

    def _reading(self) -> dict[str, str]:
        return {"reader": self._rows.reads_by}

    def _offsets(self, rows: np.ndarray) -> np.ndarray:
        return self._rows.offsets(rows)

    def _note(self, error: Exception, doing: str, rows: np.ndarray) -> None:
        self._rows.note(error, doing, rows)

    def _described(self) -> list[str]:
        disk = self._rows.disk
        return [
            *self._rows.described(),
            f"format={self.format!r}" + (" + transform" if self._output.transform else ""),
            f"reader={self._rows.reads_by!r}",
            *([f"cache_dir={disk.directory!r}"] if disk is not None else []),
        ]


def _files_of(view: View) -> dict[str, BlobSource]:
    """The columns that are to be files."""
    if view.recipe.blobs != "file":
        return {}
    return {
        name: BlobSource(Reader(view.recipe, AllRows(0), {name: column}))
        for name, column in view.blobs.items()
    }


def seconds(name: str, value: Any) -> float | None:
    """`value` as a float, or None; ValueError naming the argument unless time can be so long."""
    if value is None:
        return None
    known = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not known or not 0 < value <= threading.TIMEOUT_MAX:
        raise ValueError(
            f"{name} must be a number of seconds above 0, or None for no limit, not {value!r}"
        )
    return float(value)


def warn_if_no_step(steps: Steps, stacklevel: int = 3) -> None:
    """Warn, where a dataset or a loader is made, that its epochs have rows and no batch."""
    if steps.rows and steps.num_steps == 0:
        warnings.warn(
            f"{steps.rows} rows are fewer than one step of {steps.world_size} x "
            f"{steps.batch_size}: drop_last=True leaves all of them out",
            stacklevel=stacklevel,
        )


def warn_of_new_workers(stacklevel: int) -> None:
    """Warn, once, that workers which end with an epoch cache nothing for the next one."""
    warnings.warn(
        "cache=True, and every epoch has new workers, which read all rows anew: give the "
        "DataLoader persistent_workers=True, or num_workers=0",
        stacklevel=stacklevel,
    )


def warn_if_rows_are_left_out(steps: Steps, shuffle: str) -> None:
    """Warn, where a loader is made, that each epoch leaves out the same rows."""
    left_out = steps.rows - steps.num_steps * steps.global_batch
    if shuffle == "none" and steps.drop_last and steps.num_steps and left_out > 0:
        warnings.warn(
            f"{left_out} of {steps.rows} rows fill no batch and are left out, the same ones in "
            "every epoch, as they are not shuffled: drop_last=False delivers them",
            stacklevel=3,
        )
