# SPDX-License-Identifier: Apache-2.0
"""The iterable dataset: whole batches, shuffled, sharded, from any position."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from lancedb.permutation import Permutation
from lancedb.table import Table

from ..arrow.large_rows import LargeRows, vary_in_size
from ..arrow.origins import Origins
from ..cache.columns import Cache
from ..common.checks import whole_number
from ..convert.on_error import OnError
from ..convert.transform import Output
from ..frameworks.torch_loader import (
    in_worker,
    this_worker,
    workers_are_persistent,
)
from ..order.batch_sequence import BatchSequence
from ..order.index_shuffle import LARGEST
from ..order.layout import Layout, times_read
from ..order.read_schedule import RowOrder, schedule
from ..order.shuffle import ShuffleSpec
from ..order.state import Position, read_state, refuse_allowances
from ..order.steps import Steps
from ..pipeline.groups import rows_plan_of
from ..pipeline.prefetch import Prefetcher, ReadAhead
from ..pipeline.table_input import TableInput
from ..table.arguments import Given, View
from ..table.row_weights import RowWeights, read_weights
from ..table.sample import row_sizes
from ..table.selection import in_stored_order
from ..table.sources import is_in_object_store
from .base import READ_TIMEOUT, TableDataset, warn_of_new_workers
from .batching import Packing, TokenBudget, check_batching
from .keywords import explain_unknown
from .origins import RandomSeed, origins_of
from .pinned_rows import PinnedRows
from .planned_batches import (
    NOMINAL_BATCH,
    Counted,
    PlannedBatches,
    check_lanes,
    shards_of_table,
)
from .row_cache import RowCache
from .sharded import ShardedDataset
from .step_orders import RankOrder, StepOrder

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_log = logging.getLogger("lancedb.integrations.torch")

Auto = int | Literal["auto"]

# Reads of an object store that are under way for each one of a disk.
FAR_READS = 4


class LanceIterableTorchDataset(ShardedDataset, TableDataset):
    """An iterable dataset over a LanceDB table that yields whole batches.

    Give it to ``DataLoader(dataset, batch_size=None)`` or to `LanceDataLoader`. Rows are sharded
    over the ranks of a distributed run and the loader's workers, so that none comes twice; each
    global step has the same rows on any number of them. Every ``iter()`` is the next epoch, with
    the next order.

    Parameters
    ----------
    table, uri, table_name, connect_kwargs, connection_factory, permutation_table, split, \
filter, version, columns, format, transform, fill_null, ragged, pad_value, pad_to : optional
        As for `LanceTorchDataset`. The random numbers of a `transform` with a context come from
        `seed` and the epoch.
    batch_size : int, default 100, or what a `Permutation` was given
        Rows of one rank's batch. A step is ``world_size * batch_size`` rows over all ranks.
    drop_last : bool, default True
        True leaves out the rows of an epoch that fill no full step of all ranks. False delivers
        every row: the last step may be short, and is divided evenly.
    shuffle : {False, True, "block", "global"}, default False
        False keeps the base order. True or ``"block"`` reads short runs of consecutive rows and
        mixes rows from all over the table in memory, several times as fast as ``"global"``, a
        true shuffle of single rows.
    seed : int, default 0
        Together with the epoch, decides the order.
    rank, world_size : int, optional
        This process's number, from 0 on, and how many there are: both or neither. Default: from
        `torch.distributed` if initialised, else from ``RANK`` and ``WORLD_SIZE``, else 0 of 1.
    mesh : torch.distributed.device_mesh.DeviceMesh, optional
        A mesh of one dimension, in place of `rank` and `world_size`: ``mesh["dp"]`` of a mesh of
        data and tensor parallel ranks, so that those of one tensor group have the same batches,
        and the same state.
    sample_weights : str, optional
        A column, or an SQL expression: each row is drawn in proportion to it, as often in an epoch
        as expected, rounded down or up. None may be negative or not finite.
    balance_by : str, optional
        A column: each of its values is drawn as often as any other. In place of `sample_weights`.
    epoch_rows : int, optional
        Rows of an epoch, with `sample_weights` or `balance_by`. Default: as many as there are.
    transform_threads : int, default 0
        Threads in which `transform` runs ahead of the training step. With 0 it is called in the
        thread that iterates, when its batch is asked for, as torch's own loader does, while
        reading, shuffling and conversion go ahead. More are for a `transform` that may run in
        several threads at once; without a `transform` they change nothing. Each batch is given the
        modes of the thread that iterates (grad, inference, autocast, default device, CUDA stream)
        and its context variables, as they were at the epoch's first batch. A transform that draws
        from a global random state for that batch stays in the thread that iterates for the whole
        epoch.
    cache : bool or "auto", default "auto"
        Whether to read all rows at the first batch, and cache them in this process's memory for all
        epochs. ``"auto"`` does so for a shuffled table (or a stretch of it, if a quarter of its
        rows or more are chosen) that has an automatic layout, takes up to 256 MB, has no tiny
        fragments, and is read by one process alone. The order is the same in either case.
    cache_dir : str or path, optional
        As for `LanceTorchDataset`. Rows that ``cache="auto"`` caches in memory are not written to
        it; ``cache=True`` loads rows from it.
    cache_bytes : int or str, optional
        As for `LanceTorchDataset`.
    unwrap : bool, default False
        With ``batch_size=1``: yield the row itself rather than a batch of one row.
    blobs : {"bytes", "file", "descriptor"}, default "bytes"
        As for `LanceTorchDataset`. Bytes are fetched for the batches that come next, and are stored
        neither in windows nor with ``cache="auto"``, but are cached with ``cache=True``.
    dictionary : {"values", "codes"}, default "values"
        What a dictionary column gives: its values, or int64 codes that mean the same in every
        batch, process and rank; ``categories`` has the values in the order of their codes. For
        codes the column is read once, when the dataset is made.
    on_error : {"raise", "skip"} or callable, default "raise"
        As for `LanceTorchDataset`: what happens if `transform` fails on single rows. Every rank
        makes the same steps, and resumes at the same positions, whatever is left out.
    batching : TokenBudget or Packing, optional
        What makes batches in place of `batch_size`, for documents of different lengths: batches
        of so many tokens, or rows of one length into which documents are packed. The position in
        a state then counts batches.

    Other Parameters
    ----------------
    block_rows, window_rows, lanes : int or "auto", default "auto"
        The layout of ``shuffle=True``: rows of a run that is read together, rows of one lane's
        window (rounded down to whole blocks), and the number of lanes. ``"auto"`` chooses by the
        bytes of a row and the rows of a step.
    readahead : int, default 2
        Reads in progress besides the one whose rows come next, of up to 8 MB each; four times as
        many for a table in an object store, as an answer takes time.
    read_timeout : float, default 120
        As for `LanceTorchDataset`: seconds to wait until the table is open, and for each read.

    Raises
    ------
    ValueError
        As for `LanceTorchDataset`, for a batch size or layout that is impossible, for weights that
        are negative, not finite or all zero, and, with ``drop_last=False``, if there are fewer rows
        than ranks.
    TypeError, FileNotFoundError, RuntimeError
        As for `LanceTorchDataset`.

    Warns
    -----
    UserWarning
        If there are no rows, or if ``drop_last=True`` leaves out all of them, as there are fewer
        than one step has; without `batch_size` this comes from ``iter()`` or `LanceDataLoader`, as
        a source of a mixture has no steps. At ``iter()``: if a plain ``DataLoader`` would make
        batches of batches. At an epoch's first batch: if `batching` makes no full step of all
        documents, which ``drop_last=True`` leaves out; and if `transform` draws from a global
        random state, and so stays in the thread that iterates despite `transform_threads`.

    Examples
    --------
    >>> import lancedb
    >>> db = lancedb.connect("memory://")
    >>> table = db.create_table("points", [{"x": float(i)} for i in range(1000)])
    >>> dataset = LanceIterableTorchDataset(table, format="torch", batch_size=64, shuffle=True)
    >>> len(dataset)
    15
    >>> next(iter(dataset))["x"].shape
    torch.Size([64])
    """

    _rows: PinnedRows
    _is_advised = False

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
        fill_null: Any = None,
        ragged: str = "jagged",
        pad_value: Any = 0,
        pad_to: Any = None,
        unwrap: bool = False,
        blobs: Literal["bytes", "file", "descriptor"] = "bytes",
        dictionary: Literal["values", "codes"] = "values",
        batch_size: int | None = None,
        drop_last: bool = True,
        shuffle: bool | str = False,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        mesh: DeviceMesh | None = None,
        sample_weights: str | None = None,
        balance_by: str | None = None,
        epoch_rows: int | None = None,
        block_rows: Auto = "auto",
        window_rows: Auto = "auto",
        lanes: Auto = "auto",
        readahead: int = 2,
        transform_threads: int = 0,
        cache: Cache = "auto",
        cache_dir: Any = None,
        cache_bytes: int | str | None = None,
        on_error: OnError = "raise",
        read_timeout: float | None = READ_TIMEOUT,
        batching: TokenBudget | Packing | None = None,
    ):
        batching = check_batching(batching, batch_size, unwrap, on_error)
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
            packed=None if batching is None else batching._packed,
            cache=cache,
            cache_dir=cache_dir,
            cache_bytes=cache_bytes,
        )
        self.readahead = whole_number("readahead", readahead, 1)
        self.transform_threads = whole_number("transform_threads", transform_threads, 0)
        self._sizes = row_sizes(self._rows.new_reader())
        self._order = ShuffleSpec(
            rows=self.num_rows,
            row_bytes=self._sizes.average,
            shuffle=shuffle,
            seed=seed,
            asked={"block_rows": block_rows, "window_rows": window_rows, "lanes": lanes},
        )
        if self._order.shuffle == "block":
            # A random split has no neighbours to read together, and its order is lost anyway.
            self._rows.view = dataclasses.replace(
                self._view, selection=in_stored_order(self._view.selection)
            )
        self._order = self._weighted(sample_weights, balance_by, epoch_rows)
        if batching is not None:
            self._batching = batching
            check_lanes(self._order)
            counted = Counted(self._view, self._order.row_bytes, self._rows.settings)
            self._planned = PlannedBatches(
                batching,
                {"": counted},
                partial(shards_of_table, self._order),
                self._output.ragged,
                self._output.nulls,
            )
        self._rows.describe()  # while the table is there
        self._row_cache = RowCache(cache, self._rows, self._sizes, self._order.is_automatic)
        self._may_be_source = batch_size is None
        self._begin_epochs(drop_last, rank, world_size, mesh)

    def _weighted(
        self, sample_weights: str | None, balance_by: str | None, epoch_rows: int | None
    ) -> ShuffleSpec:
        """The order over points that draw rows, if rows are to be drawn."""
        given = {"sample_weights": sample_weights, "balance_by": balance_by}
        drawn_by = {name: value for name, value in given.items() if value is not None}
        if len(drawn_by) == 2:
            raise ValueError("give sample_weights or balance_by, not both")
        if not drawn_by:
            if epoch_rows is not None:
                raise ValueError(
                    f"epoch_rows={epoch_rows} is for rows that are drawn: give sample_weights or "
                    "balance_by, too"
                )
            return self._order
        points = self.num_rows
        if epoch_rows is not None:
            points = whole_number("epoch_rows", epoch_rows, 1, LARGEST)
        weights = read_weights(self._view.recipe, self._view.selection, **given)
        if not len(weights):
            return self._order  # which has no batch
        draws = RowWeights(weights, points)
        return dataclasses.replace(self._order, rows=points, draws=draws, drawn_by=drawn_by)

    @property
    def _view(self) -> View:
        return self._rows.view

    @property
    def cache(self) -> Cache:
        """Whether rows are cached in memory."""
        return self._row_cache.cache

    @property
    def shuffle(self) -> str:
        """ "none", "block" or "global"."""
        return _ShuffleName(self._order.shuffle)

    @property
    def _order_name(self) -> str:
        return self._order.shuffle

    def _steps(self, start: int = 0, epoch: int | None = None, layout: Any = None) -> Steps:
        """The global steps of an epoch from a position on; all epochs are alike."""
        world_size = self.rank_and_world_size()[1]
        return Steps(self._order.rows, self.batch_size, world_size, self.drop_last, start)

    def _rows_of(self, plan: Any, share: tuple[int, int]) -> np.ndarray:
        """The rows that a rank takes at a step."""
        return plan.rows_at(np.arange(*share))

    def _stream(
        self,
        stack: contextlib.ExitStack,
        plan: RowOrder,
        spans: Iterator[tuple[int, int]],
        output: Output,
        with_origins: bool,
    ) -> Prefetcher:
        """What reads the rows of some spans ahead, and makes batches of them."""
        spans, origins = self._with_origins(plan, spans, with_origins)
        ahead, stats = self._read_ahead(), self._stats()
        epoch_cache = stack.enter_context(self._row_cache.of_epoch(plan, self._is_alone))
        large = self._large_rows()
        reader = self._rows.reader()
        rows = TableInput(plan, reader, stats, ahead.reads, ahead.read_rows, epoch_cache, large)
        groups = schedule(plan, spans, ahead.read_rows)
        return Prefetcher(rows, groups, output, stats, ahead, self._limits_here(), origins)

    def _origins_of(self, plan: RowOrder, shares: list[tuple[int, int]]) -> Origins:
        """Where the rows of some shares come from."""
        of_rows = rows_plan_of(plan)
        positions = np.concatenate([np.arange(*share) for share in shares])
        rows, starts = plan.rows_at(positions), None
        if isinstance(plan, BatchSequence):
            starts, positions = plan.starts_at(positions), plan.positions_at(positions)
        points = None if of_rows.draws is None else of_rows.points_at(positions)
        seed = RandomSeed(of_rows.seed, of_rows.epoch)
        return origins_of(self._view.selection, rows, seed, points=points, starts=starts)

    def _read_state(
        self, state: Mapping[str, Any], layout: Layout | None, allow: Iterable[str] = ()
    ) -> tuple[Position, Layout]:
        """Check a state against this dataset; where it was taken, and the layout of its order."""
        refuse_allowances(allow)
        at, parts = read_state(state, self._epoch_order().describe(layout))
        loaded = Layout(**parts)
        # What cannot be iterated is refused here.
        if self._planned is None:
            self._steps(at.position)
        self._plan(at, loaded)
        return at, loaded

    def _epoch_order(self, layout: Any = None) -> StepOrder:
        """What cursors ask, for this rank."""
        rank, world_size = self.rank_and_world_size()
        data = self._rows.describe()
        if self._planned is not None:
            data = {**data, **self._planned.describe()}
            described = partial(_described, data, self._order, NOMINAL_BATCH)
            return self._planned.order(rank, world_size, self.drop_last, described)
        steps = self._steps()
        return RankOrder(steps, rank, partial(_described, data, self._order, steps.global_batch))

    def _plan(self, at: Position, layout: Layout | None) -> RowOrder:
        """The order of an epoch's rows, or its planned batches."""
        if self._planned is not None:
            return self._planned.sequence(at.epoch, layout)
        return self._order.with_layout(layout).plan(at.epoch, self._steps().global_batch)

    def _begins_in_worker(self, worker: int, workers: int) -> None:
        """Log once what it costs that each worker of a plain loader reads for itself."""
        if self._planned is not None:
            times = self._planned.times_read(self.rank_and_world_size()[1] * workers)
        else:
            global_batch = self._steps().global_batch
            times = times_read(self._order.layout(global_batch), global_batch, workers)
        if times > 1 and worker == 0 and not self._is_advised:
            self._is_advised = True
            _log.warning(
                "%d workers of a DataLoader read each block of the shuffle %d times, and hold as "
                "much more in memory: LanceDataLoader reads it once, and has them transform alone",
                workers,
                times,
            )

    def _read_ahead(self) -> ReadAhead:
        far = is_in_object_store(self._view.recipe.source)
        reads = self.readahead * (FAR_READS if far else 1)
        rows = self._order.read_rows, self._order.job_rows
        return ReadAhead(*rows, reads, self.transform_threads)

    def _begins_in(self, epoch: int) -> None:
        """Warn once that workers which end with an epoch cache nothing for the next one."""
        first = in_worker() and this_worker()[0] == 0 and epoch == 1
        if self.cache is True and first and not workers_are_persistent():
            warn_of_new_workers(stacklevel=3)

    def _large_rows(self) -> LargeRows | None:
        """What to do about rows that are far larger than others."""
        if not vary_in_size(self._rows.reader().schema):
            return None
        return LargeRows(self._order.row_bytes, self._sizes.are_skewed, self._limits_here())

    def _bytes_to_cache(self) -> int | None:
        return self._row_cache.bytes_to_cache(self._is_alone)

    def _described(self) -> list[str]:
        size = f"batch_size={self.batch_size}" if self._batching is None else repr(self._batching)
        return [*super()._described(), size, repr(self._order)]


def _described(
    data: Mapping[str, Any], order: ShuffleSpec, global_batch: int, layout: Layout | None
) -> dict[str, Any]:
    return {**data, **order.with_layout(layout).describe(global_batch)}


class _ShuffleName(str):
    """The name of an order, which says what to do if it is called like a method."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(
            "LanceIterableTorchDataset is shuffled where it is made: pass shuffle=True, seed=1 to "
            "it; set_epoch() gives each epoch its own order"
        )
