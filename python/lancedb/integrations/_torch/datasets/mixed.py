# SPDX-License-Identifier: Apache-2.0
"""The mixture of several tables as one dataset that yields whole batches."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrow.origins import Origins
from ..cache.columns import Cache, check_cache
from ..common.checks import one_of, whole_number
from ..common.error_notes import add_note
from ..convert.on_error import OnError
from ..convert.transform import Output
from ..order.mixed_layout import MixedLayout, describe, merged, mixed_layout, read_mixed_state
from ..order.mixed_order import MixedEpochOrder, MixedRows, SourceOrder
from ..order.mixed_shards import MixedShards
from ..order.mixture import Mixture
from ..order.read_schedule import Span
from ..order.state import Position, allowances
from ..order.step_mixture import StepMixture
from ..order.steps import Steps
from ..pipeline.prefetch import Prefetcher
from ..workers.shared_epoch import LayoutCodec
from .batching import Packing, TokenBudget, check_batching
from .keywords import explain_unknown
from .mixing import MixedBatchesKind, MixedRowsKind
from .mixture_arguments import (
    WithSource,
    check_schedule,
    check_stop,
    refuse_what_is_the_sources,
    sources_of,
)
from .mixture_batches import (
    MixedPlan,
    merged_between_epochs,
    rows_of_shares,
    rows_order_of,
    starts_in,
)
from .mixture_reader import MixtureReader
from .mixture_source import MixtureSource
from .origins import RandomSeed, joined, origins_of
from .planned_batches import NOMINAL_BATCH, PlannedBatches
from .sharded import ShardedDataset
from .step_orders import RankOrder, StepOrder

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

_LAYOUT_BYTES = (1 << 10, 1 << 8)  # of a layout in shared memory: in all, and for each source


class LanceMixedTorchDataset(ShardedDataset):
    """A mixture of tables by weight, in whole batches.

    It works wherever `LanceIterableTorchDataset` does, with the same guarantees: the same batches
    on any number of workers and ranks, equal steps, and exact resume at any batch. Each source is
    within two rows of its share, over any stretch of any of the shards into which an epoch is cut.
    All of its rows come before any of them comes again, except a row or two of each shard, and it
    continues from one epoch of the mixture into the next.

    Parameters
    ----------
    datasets : mapping of str to LanceIterableTorchDataset
        The sources by name, each with its own table, columns, filter, split, version, ``shuffle``,
        ``sample_weights`` or ``balance_by``, and ``cache_dir``, and with the same columns and
        types. Everything else belongs to the mixture.
    weights : mapping of str to float, or list of (int, mapping)
        How many rows of each source come, in proportion. A list has weights with the row of the
        mixture from which they apply, the first with row 0; rows are counted over all ranks and
        epochs. A source that is left out has a weight of 0.
    batch_size : int, default 100
        Rows of one rank's batch.
    stop : {"first_exhausted", "all_exhausted"} or int, default "first_exhausted"
        When an epoch of the mixture ends: before a source would deliver more rows than it has, once
        each has delivered as many as it has, or after that many rows. In every source, the next
        epoch continues where this one ended.
    mix : {"rows", "batches"}, default "rows"
        ``"rows"``: a batch has rows of all sources. ``"batches"``: each global step, on all ranks,
        comes from one source, with its own `format`, `transform`, `fill_null`, `ragged` and
        `pad_*`, which then do not belong to the mixture; columns may differ, weights are shares of
        steps, an epoch has whole steps, and a state continues only with the same global batch.
    source_column : str, optional
        Adds an int64 column of this name: the number of each row's source, in the order of
        `datasets`.
    format, transform, fill_null, ragged, pad_value, pad_to, unwrap, on_error, readahead, \
transform_threads : optional
        As for `LanceIterableTorchDataset`, for the mixed batches. A callable `on_error` is given
        ``(name, offset)`` for each row that is left out.
    cache : bool or "auto", default "auto"
        Whether the sources' rows are cached in this process's memory. ``"auto"`` caches those of
        small sources, and those of all sources if one process alone reads them and they take up to
        256 MB together.
    drop_last : bool, default True
        As for `LanceIterableTorchDataset`.
    batching : TokenBudget or Packing, optional
        As for `LanceIterableTorchDataset`, with ``mix="rows"``. Weights, and a number for `stop`,
        then count documents; other weights may be loaded at the beginning of an epoch.
    seed : int, default 0
        Together with the epoch, decides the order.
    rank, world_size, mesh : optional
        As for `LanceIterableTorchDataset`.

    Raises
    ------
    ValueError
        If weights are negative, not finite, all 0, too small, or of unknown sources; if a source
        with a weight is empty, is given twice, has arguments that belong to the mixture, or other
        columns than the others; if an epoch would have no rows.
    TypeError
        If a source is not a `LanceIterableTorchDataset`.

    Examples
    --------
    >>> import lancedb
    >>> from lancedb.integrations.torch import LanceIterableTorchDataset, LanceMixedTorchDataset
    >>> db = lancedb.connect("memory://")
    >>> web = db.create_table("web", [{"x": i} for i in range(700)])
    >>> code = db.create_table("code", [{"x": -i} for i in range(500)])
    >>> dataset = LanceMixedTorchDataset(
    ...     {name: LanceIterableTorchDataset(table, shuffle=True)
    ...      for name, table in [("web", web), ("code", code)]},
    ...     weights={"web": 0.75, "code": 0.25}, batch_size=40, format="torch",
    ...     source_column="source")
    >>> len(dataset)
    23
    >>> batch = next(iter(dataset))
    >>> batch["source"].bincount().tolist()
    [31, 9]
    """

    @explain_unknown
    def __init__(
        self,
        datasets: Mapping[str, Any],
        weights: Mapping[str, float] | Sequence[tuple[int, Mapping[str, float]]],
        *,
        batch_size: int | None = None,
        stop: str | int = "first_exhausted",
        mix: str = "rows",
        source_column: str | None = None,
        format: str | None = None,
        transform: Callable[..., Any] | None = None,
        fill_null: Any = None,
        ragged: str = "jagged",
        pad_value: Any = 0,
        pad_to: Any = None,
        unwrap: bool = False,
        drop_last: bool = True,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        mesh: DeviceMesh | None = None,
        readahead: int = 2,
        transform_threads: int = 0,
        cache: Cache = "auto",
        on_error: OnError = "raise",
        batching: TokenBudget | Packing | None = None,
    ):
        one_of("mix", mix, ("rows", "batches"))
        self._batching = check_batching(batching, batch_size, unwrap, on_error)
        if batching is not None and mix == "batches":
            raise ValueError(
                'batching makes batches of rows of all sources: leave mix="batches" out'
            )
        self._sources: dict[str, MixtureSource] = sources_of(datasets, mix == "batches")
        self._names = tuple(self._sources)
        self._schedule = check_schedule(weights, self._sources)
        self._seed = whole_number("seed", seed, error=TypeError)
        self._stop = check_stop(stop)
        on_error = WithSource.of(on_error, self._names)
        if mix == "rows":
            packed = None if batching is None else batching._packed
            output = Output(
                format, transform, fill_null, ragged, pad_value, pad_to, on_error, packed=packed
            )
            self._kind: Any = MixedRowsKind(self._sources, output, source_column)
        else:
            given = (format, transform, fill_null, ragged, pad_value, pad_to, bool(unwrap))
            refuse_what_is_the_sources(given)
            self._kind = MixedBatchesKind(self._sources, on_error, source_column)
        if batching is not None:
            tables = {name: source.counted for name, source in self._sources.items()}
            made_of = self._kind.output.ragged, self._kind.output.nulls
            self._planned = PlannedBatches(batching, tables, self._shards_of, *made_of)
        super().__init__(self._kind.output, 100 if batch_size is None else batch_size, unwrap)
        self.readahead = whole_number("readahead", readahead, 1)
        self.transform_threads = whole_number("transform_threads", transform_threads, 0)
        self._reader = MixtureReader(self._sources, self._kind, check_cache(cache))
        most_bytes, more = _LAYOUT_BYTES
        codec = LayoutCodec(MixedLayout.of_json, most_bytes + more * len(self._names))
        self._begin_epochs(drop_last, rank, world_size, mesh, codec)

    def _begin_use(self) -> None:
        super()._begin_use()
        self._mixtures: dict[tuple[MixedLayout, int], Mixture | StepMixture] = {}
        self._own_layouts: dict[int, MixedLayout] = {}

    def __getstate__(self) -> dict[str, Any]:
        # A copy has windows of its own.
        return {**super().__getstate__(), "_mixtures": {}, "_reader": copy.copy(self._reader)}

    # -- what is read ------------------------------------------------------------------------

    @property
    def table_name(self) -> str:
        """The names of the sources."""
        return "+".join(self._names)

    @property
    def schema(self) -> Any:
        """The Arrow schema of the rows, before `format` and `transform`; with ``mix="batches"`` a
        dict of that of each source."""
        return self._kind.schema

    @property
    def column_names(self) -> Any:
        """The names of the columns, as the batches have them; with ``mix="batches"`` a dict of
        those of each source."""
        return self._kind.column_names

    @property
    def cache(self) -> Cache:
        """Whether the sources' rows are cached in memory."""
        return self._reader.cache

    @property
    def num_rows(self) -> int:
        """How many rows the next epoch has, over all ranks and workers."""
        return self._steps().rows

    def skipped_rows(self) -> list[Any]:
        """The source and the offset of each row that `on_error` left out.

        Returns
        -------
        list of (str, int)
            As for `LanceIterableTorchDataset`, with the source's name.
        """
        return sorted(map(WithSource(None, self._names).named, super().skipped_rows()))

    def stats(self) -> dict[str, Any]:
        """As for `LanceIterableTorchDataset`, and how far each source has come.

        Returns
        -------
        dict
            ``sources`` has, by name, the ``rows`` of a source that all ranks were given, counted
            over all epochs, and its ``epoch``: how many times that is the whole source.
        """
        return {**super().stats(), **self._progress(self._cursor.place, self._cursor.layout)}

    # -- the order -----------------------------------------------------------------------------

    @property
    def _order_name(self) -> str:
        return "block"

    @property
    def _global_batch(self) -> int:
        if self._planned is not None:
            return NOMINAL_BATCH
        return self.batch_size * self.rank_and_world_size()[1]

    def _own_layout(self, of: MixedLayout | None = None) -> MixedLayout:
        """The layout of these sources; of those in a state, as it says, and with them first."""
        known = of.names if of is not None else ()
        names = (*known, *(name for name in self._names if name not in known))
        sizes = [self._sources[name].size for name in names]
        known = {} if of is None else dict(zip(of.names, of.layouts, strict=True))
        shards = None if of is None else of.shards
        size, whole = self._global_batch, self._kind.whole_steps
        return mixed_layout(names, sizes, self._schedule, size, shards, known, whole)

    def _layout(self, layout: MixedLayout | None) -> MixedLayout:
        if layout is not None:
            return layout
        size = self._global_batch
        if size not in self._own_layouts:
            self._own_layouts[size] = self._own_layout()
        return self._own_layouts[size]

    def _mixture(self, layout: MixedLayout | None) -> Mixture | StepMixture:
        known = layout, size = self._layout(layout), self._global_batch
        if known not in self._mixtures:
            self._mixtures.clear()
            self._mixtures[known] = self._kind.mixture(self._sources, layout, self._stop, size)
        return self._mixtures[known]

    def _steps(self, start: int = 0, epoch: int | None = None, layout: Any = None) -> Steps:
        if epoch is None:
            epoch, layout = self._cursor.next.settled().epoch, self._cursor.layout
        rows = self._mixture(layout).rows_of(epoch)
        world_size = 1 if self._planned is not None else self.rank_and_world_size()[1]
        return Steps(rows, self.batch_size, world_size, self.drop_last, start)

    def _epoch_order(self, layout: Any = None) -> StepOrder:
        if self._planned is not None:
            ranks = self.rank_and_world_size()
            return self._planned.order(*ranks, self.drop_last, self._describe, self._layout)

        def steps_of(epoch: int) -> Steps:
            return self._steps(0, epoch, layout)

        return RankOrder(
            steps_of(self._cursor.next.settled().epoch),
            self.rank_and_world_size()[0],
            self._describe,
            steps_of,
        )

    def _describe(self, layout: MixedLayout | None) -> dict[str, Any]:
        described = {name: source.described for name, source in self._sources.items()}
        return describe(self._layout(layout), described, self._also)

    @property
    def _also(self) -> dict[str, Any]:
        own = self._kind.described(self._global_batch)
        planned = {} if self._planned is None else self._planned.describe()
        return {**own, "stop": self._stop, "seed": self._seed, **planned}

    def _plan(self, at: Position, layout: Any) -> MixedPlan:
        if self._planned is not None:
            return self._planned.sequence(at.epoch, self._layout(layout))
        return self._rows_order(at, layout)

    def _shards_of(self, epoch: int, layout: Any) -> tuple[MixedShards, int]:
        shards = MixedShards(self._rows_order(Position(epoch), layout))
        return shards, shards.key

    def _rows_order(self, at: Position, layout: Any) -> MixedEpochOrder:
        layout = self._layout(layout)
        orders = tuple(
            SourceOrder(
                name,
                source.size.rows,
                source.size.shuffle,
                of,
                self._reader.caches(name, of, self._is_alone),
                source.draws,
            )
            for name, of, source in (
                (name, of, self._sources[name])
                for name, of in zip(layout.names, layout.layouts, strict=True)
            )
        )
        steps = self._steps(at.position, at.epoch, layout)
        return MixedEpochOrder(self._mixture(layout), orders, self._seed, at.epoch, steps)

    def _rows_of(self, plan: MixedPlan, share: Span) -> MixedRows:
        return rows_of_shares(plan, [share])

    def _progress(self, at: Position, layout: Any) -> dict[str, Any]:
        mixture, layout = self._mixture(layout), self._layout(layout)
        at = at.settled()
        before, position = mixture.before(at.epoch).sum(axis=0), at.position
        if self._planned is not None:
            position = self._planned.sequence(at.epoch, layout).rows_before(position)
        given = before + mixture.delivered(at.epoch, position)
        return {
            "sources": {
                name: {"rows": rows, "epoch": rows / max(1, size)}
                for name, rows, size in zip(
                    layout.names, given.tolist(), mixture.sizes, strict=True
                )
            }
        }

    # -- states ----------------------------------------------------------------------------

    def _read_state(
        self, state: Mapping[str, Any], layout: Any, allow: Iterable[str] = ()
    ) -> tuple[Position, MixedLayout]:
        allowed = allowances(allow)
        described = {name: source.described for name, source in self._sources.items()}
        at, theirs = read_mixed_state(state, described, self._also, allowed)
        own = self._own_layout(theirs)
        size = self._global_batch
        if self._kind.whole_steps and at.position % size:
            raise ValueError(f"state is damaged: position {at.position} is within a step of {size}")
        before = self._kind.mixture(self._sources, theirs, self._stop, size).start_of(at.epoch)
        if self._planned is not None:
            return at, merged_between_epochs(theirs, own, before, at.position, allowed)
        loaded = merged(theirs, own, before + at.position, allowed)
        self._steps(at.position, at.epoch, loaded)  # what cannot be iterated is refused here
        return at, loaded

    # -- reading ---------------------------------------------------------------------------

    def _stream(
        self,
        stack: contextlib.ExitStack,
        plan: MixedPlan,
        spans: Iterator[Span],
        output: Output,
        with_origins: bool,
    ) -> Prefetcher:
        spans, origins = self._with_origins(plan, spans, with_origins)
        stats, limits = self._stats(), self._limits_here()
        windows = stack.enter_context(self._reader.windows(plan, self.rank_and_world_size()[0]))
        ahead = self._reader.read_ahead(plan, self.readahead, self.transform_threads)
        rows, groups, ahead = self._reader.opened(plan, spans, windows, ahead, stats, limits)
        return Prefetcher(rows, groups, output, stats, ahead, limits, origins)

    def _origins_of(self, plan: MixedPlan, shares: list[Span]) -> Origins:
        """Where the rows of some shares come from: random numbers are those of a source's epoch."""
        rows, starts = rows_of_shares(plan, shares), starts_in(plan, shares)
        plan = rows_order_of(plan)
        parts = []
        for number in np.unique(rows.sources).tolist():
            name = plan.sources[number].name
            of_source = rows.sources == number
            for epoch in np.unique(rows.epochs[of_source]).tolist():
                here = np.flatnonzero(of_source & (rows.epochs == epoch))
                source, seed = self._sources[name], RandomSeed(self._seed, epoch)
                points = None if source.draws is None else rows.points[here]
                start, selection = None if starts is None else starts[here], source.view.selection
                origins = origins_of(selection, rows.rows[here], seed, name, points, start)
                parts.append((self._names.index(name), here, origins))
        return dataclasses.replace(joined(parts, len(rows.rows)), epoch=plan.epoch)

    # -- errors and descriptions ---------------------------------------------------------------

    def _offsets(self, rows: MixedRows) -> np.ndarray:
        """The offset of each row in its table, and the number of its source, in one number."""
        offsets, sources = np.empty((2, len(rows.rows)), np.int64)
        layout = self._layout(self._cursor.layout)
        for number in np.unique(rows.sources).tolist():
            name, here = layout.names[number], rows.sources == number
            offsets[here] = self._sources[name].view.selection.offsets(rows.rows[here])
            sources[here] = self._names.index(name)
        return WithSource(None, self._names).numbers(Origins(offsets, sources=sources))

    def _note(self, error: Exception, doing: str, rows: MixedRows) -> None:
        first = MixedRows(*(each[:8] for each in vars(rows).values()))
        named = map(WithSource(None, self._names).named, self._offsets(first).tolist())
        shown = ", ".join(f"{offset} of {name!r}" for name, offset in named)
        more = f" and {len(rows.rows) - 8} more" if len(rows.rows) > 8 else ""
        add_note(error, f"{doing}: rows {shown}{more}")

    def _described(self) -> list[str]:
        lines = [f"\n  {name!r}: {source.describe()}" for name, source in self._sources.items()]
        weights = self._layout(self._cursor.layout).weights_as_json()
        shown = [
            "{" + ", ".join(f"{name!r}: {w / sum(of.values()):.4g}" for name, w in of.items()) + "}"
            for _, of in weights
        ]
        if len(weights) > 1:
            rows = (row for row, _ in weights)
            shown = [f"from row {row:,}: {each}" for row, each in zip(rows, shown, strict=True)]
        column = "" if self._kind.column is None else f", source_column={self._kind.column!r}"
        column = f", mix='batches'{column}" if self._kind.whole_steps else column
        return [
            "{" + ",".join(lines) + "\n}",
            f"weights={'; '.join(shown)}",
            f"batch_size={self.batch_size}" if self._batching is None else repr(self._batching),
            f"stop={self._stop!r}{column}",
            f"format={self.format!r}" + (" + transform" if self._output.transform else ""),
            f"seed={self._seed}",
        ]
