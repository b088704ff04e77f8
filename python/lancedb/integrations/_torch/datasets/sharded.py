# SPDX-License-Identifier: Apache-2.0
"""Epochs of whole batches, sharded over ranks and workers, from any position on."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any

from torch.utils.data import IterableDataset

from ..arrow.large_rows import Limits
from ..arrow.origins import Origins
from ..common.checks import one_of
from ..common.process import PROCESS
from ..convert.on_error import Partial
from ..convert.transform import Output, only_row
from ..frameworks.accelerate import refuse_blind_skip, refuse_second_sharding
from ..frameworks.torch_loader import (
    in_worker,
    loads_where_it_begins,
    process_number,
    this_worker,
    warn_of_batches_of_batches,
)
from ..order.state import Position, make_state, of_worker, start_of, steps_of_worker
from ..order.steps import Steps
from ..pipeline.prefetch import Prefetcher
from ..workers.agreement import Agreement
from ..workers.batch_slots import BatchSlots
from ..workers.epoch_feed import ForWorkers, RecordBatches
from ..workers.rank import SentRank, rank_in, resolve_rank
from ..workers.shared_epoch import LayoutCodec, SharedEpoch
from ..workers.worker_dataset import WorkerDataset
from .base import BatchDataset, warn_if_no_step
from .cursor import EpochCursor, EpochTracker
from .open_epochs import OpenEpochs
from .step_orders import StepOrder


class ShardedDataset(BatchDataset, IterableDataset):
    """The base of datasets that yield whole batches: ranks, workers, epochs and states.

    Its subclasses decide in which order rows come, and how they are read.
    """

    _has_warned = False  # of rows that no epoch delivers
    _may_be_source = False  # of a mixture, and then has no batches of its own
    _batching: Any = None  # what asks for batches of other than so many rows
    _planned: Any = None  # what plans those
    _limits = Limits()

    def _begin_epochs(
        self,
        drop_last: bool,
        rank: int | None,
        world_size: int | None,
        mesh: Any = None,
        codec: LayoutCodec | None = None,
    ) -> None:
        """Begin before epoch 0, as one of several ranks."""
        if self.unwrap and self.batch_size != 1:
            raise ValueError(
                f"unwrap=True yields single rows and needs batch_size=1, not {self.batch_size}"
            )
        self.drop_last = one_of("drop_last", drop_last, (False, True))
        if mesh is not None and (rank is not None or world_size is not None):
            raise ValueError("mesh gives rank and world_size: leave those out, or mesh")
        self._given_rank = (rank, world_size) if mesh is None else rank_in(mesh)
        self._sent_rank: SentRank | None = None
        self._shared_epoch = SharedEpoch(codec)
        self._cursor = EpochCursor(self._shared_epoch)
        self._skip = 0  # steps of its own that a worker had made where its state was taken
        self._has_loader = False  # a loader has begun since this dataset was iterated or set itself
        self._agreement = Agreement()
        if self._batching is None:
            steps = self._steps()  # which refuses fewer rows than ranks
            if not self._may_be_source:
                warn_if_no_step(steps, stacklevel=5)

    # -- what kinds of datasets differ in ------------------------------------------------------

    @property
    def _order_name(self) -> str:
        """ "none", "block" or "global"."""
        raise NotImplementedError

    def _steps(self, start: int = 0, epoch: int | None = None, layout: Any = None) -> Steps:
        """The global steps of an epoch, by default the next one, from a position on."""
        raise NotImplementedError

    def _epoch_order(self, layout: Any = None) -> StepOrder:
        """What cursors ask, for this rank, in the layout of a state or its own."""
        raise NotImplementedError

    def _plan(self, at: Position, layout: Any) -> Any:
        """The order of rows of an epoch from a place on."""
        raise NotImplementedError

    def _rows_of(self, plan: Any, share: tuple[int, int]) -> Any:
        """The rows that a rank takes at a step."""
        raise NotImplementedError

    def _stream(
        self,
        stack: contextlib.ExitStack,
        plan: Any,
        spans: Iterator[tuple[int, int]],
        output: Output,
        with_origins: bool,
    ) -> Prefetcher:
        """What reads the rows of some spans ahead, and makes batches of them."""
        raise NotImplementedError

    def _origins_of(self, plan: Any, shares: list[tuple[int, int]]) -> Origins:
        """Where the rows of some shares come from."""
        raise NotImplementedError

    def _with_origins(
        self, plan: Any, spans: Iterator[tuple[int, int]], wanted: bool
    ) -> tuple[Iterator[tuple[int, int]], Callable[[int], Origins] | None]:
        """The spans, and what says where the rows of the next so many come from, if wanted."""
        if not wanted:
            return spans, None
        spans, of_origins = itertools.tee(spans)

        def of_next(steps: int) -> Origins:
            return self._origins_of(plan, list(itertools.islice(of_origins, steps)))

        return spans, of_next

    @property
    def _is_alone(self) -> bool:
        """Whether no other process reads for the same batches."""
        return not in_worker() and self.rank_and_world_size()[1] == 1

    def _limits_here(self) -> Limits:
        """What this process may have in memory beyond what the layout says."""
        return self._limits.for_one_of(this_worker()[1])

    def _read_state(
        self, state: Mapping[str, Any], layout: Any, allow: Iterable[str] = ()
    ) -> tuple[Position, Any]:
        """Check a state against this dataset; where it was taken, and the layout of its order."""
        raise NotImplementedError

    def _begins_in(self, epoch: int) -> None:
        """An epoch is about to be iterated by this process."""

    def _begins_in_worker(self, worker: int, workers: int) -> None:
        """A worker of a plain loader, which reads for itself, begins an epoch."""

    def _bytes_to_cache(self) -> int | None:
        """What ``cache=True`` would cache; None where it is cached already, or would not fit."""
        return None

    def _progress(self, at: Position, layout: Any) -> dict[str, Any]:
        """How far each source has come at a place; nothing where there is but one."""
        return {}

    # -- ranks, epochs and batches -------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        self._refuse_foreign_loader()
        return {
            **super().__getstate__(),
            "_sent_rank": SentRank(*self.rank_and_world_size(), receiver=0),
            "_has_loader": False,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self._sent_rank is not None:
            self._sent_rank = self._sent_rank._replace(receiver=os.getpid())

    def __len__(self) -> int:
        """How many batches an epoch has on this rank, the same on every rank.

        With `batching`, those of the epoch under way or to come, all of which is planned for it.
        """
        at = self._cursor.place.settled()
        return self._epoch_order(self._cursor.layout).of(at.epoch, self._cursor.layout).all_steps()

    def __getitem__(self, index: Any) -> Any:
        """Refused: also `random_split` and `Subset` ask for rows by number.

        Parameters
        ----------
        index : int
            Any.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError(
            f"{type(self).__name__} is iterated, and has no rows by number: take "
            "LanceTorchDataset for that; or, for a part of the rows, filter=, or split= of a "
            "permutation_table, which lancedb.permutation.permutation_builder(table) makes"
        )

    def rank_and_world_size(self) -> tuple[int, int]:
        """This process's rank and the number of ranks."""
        return resolve_rank(*self._given_rank, self._sent_rank)

    def set_epoch(self, epoch: int) -> None:
        """Let the next ``iter()`` be this epoch, from its beginning.

        Where a state in the middle of this very epoch was loaded just before, it goes on there; and
        where that state says that this epoch has ended, no batch comes, and the next epoch follows.

        Parameters
        ----------
        epoch : int
            From 0 on.

        Raises
        ------
        ValueError
            If `epoch` is no such number.
        """
        at = start_of(epoch)
        refuse_second_sharding(self)
        self._shared_epoch.wait_for_late()
        if self._shared_epoch.ran_in_workers:
            self._cursor.lapse()
        self._cursor.seek(at.epoch)
        self._skip, self._has_loader = 0, False

    def __iter__(self) -> Iterator[Any]:
        """The batches of the next epoch, or of the rest of one, for this rank and worker."""
        self._refuse_foreign_loader()
        if not self.unwrap:
            warn_of_batches_of_batches()
        if self._may_be_source and this_worker()[0] == 0:
            self._is_no_source(stacklevel=4)
        if not in_worker():
            return self._begin_late(self._cursor)
        # Whoever started this worker waits until it has read where to begin.
        try:
            at = self._shared_epoch.begin(process_number(), this_worker()[1])
        except Exception as error:
            return raising(error)
        self._cursor.join(at, self._shared_epoch.layout)
        self._begins_in_worker(*this_worker())
        return self._begin(self._cursor)

    def _is_no_source(self, stacklevel: int) -> None:
        """Note that batches of its own are made, and warn if there is none."""
        if self._may_be_source and self._batching is None:
            self._may_be_source = False
            warn_if_no_step(self._steps(), stacklevel)

    def _begin_late(self, cursor: EpochCursor) -> Iterator[Any]:
        """The batches of the next epoch by a cursor, which begins when the first one is asked for.

        An iterator that is asked for none uses up no epoch.
        """
        yield from self._begin(cursor)

    def _begin(self, cursor: EpochCursor) -> Iterator[Any]:
        order = self._epoch_order(cursor.layout)
        world_size = self.rank_and_world_size()[1]
        begins, layout = cursor.begins.settled(), cursor.layout
        self._agreement.check(world_size, lambda: self._arguments(order, layout), begins)
        tracker = cursor.begin(order)
        for _ in range(self._skip):
            tracker.advance()
        self._skip = 0
        self._has_loader = self._has_loader and cursor is not self._cursor
        return self._batches(tracker, cursor.layout, cursor)

    def _batches(self, tracker: EpochTracker, layout: Any, cursor: EpochCursor) -> Iterator[Any]:
        """The batches of this worker's steps from where a tracker of a cursor begins."""
        plan = self._plan(tracker.at, layout)
        # The stream reads ahead of the steps that are delivered.
        ahead, mine = (tracker.shares(*this_worker()) for _ in range(2))
        made = self._made(tracker, cursor, plan, (share for _, share in ahead), mine)
        PROCESS.part(OpenEpochs).batches.add(made)
        return made

    def _made(
        self,
        tracker: EpochTracker,
        cursor: EpochCursor,
        plan: Any,
        ahead: Iterator[tuple[int, int]],
        mine: Iterator[tuple[int, tuple[int, int]]],
    ) -> Generator[Any, None, None]:
        self._begins_in(tracker.at.epoch)
        with contextlib.ExitStack() as stack:
            stream = self._stream(stack, plan, ahead, self._output, self._output.takes_context)
            batches = stack.enter_context(contextlib.closing(stream.batches()))
            stack.callback(tracker.finish)
            for step, share in mine:
                try:
                    batch = next(batches)
                    if isinstance(batch, Partial):
                        batch = self._without_bad(batch, self._rows_of(plan, share))
                except Exception as error:
                    self._note(error, _making(tracker, step), self._rows_of(plan, share))
                    raise
                cursor.deliver(tracker)
                yield only_row(batch, self.format) if self.unwrap else batch

    def _record_batches(self, at: Position, layout: Any, are_whole: bool) -> RecordBatches:
        """The record batches of this rank's steps from a place on, for workers to convert.

        `are_whole`: whether nothing is to be done with what a worker makes of them.
        """
        needs_worker = self.unwrap or self._output.transform is not None or not are_whole
        tracker = EpochTracker(at, self._epoch_order(layout).of(at.epoch, layout))
        plan = self._plan(at, layout)

        def rows() -> Iterator[Any]:
            return (self._rows_of(plan, share) for _, share in tracker.shares(0, 1))

        def opened(stack: contextlib.ExitStack) -> Prefetcher:
            ahead = (share for _, share in tracker.shares(0, 1))
            named = self._output.takes_context or self._output.on_error != "raise"
            return self._stream(stack, plan, ahead, output, named)

        output = ForWorkers(None if needs_worker else self._output)

        def note(error: Exception, step: int) -> None:
            of_step = next(itertools.islice(rows(), step, None), None)
            if of_step is not None:
                self._note(error, _making(tracker, step), of_step)

        return RecordBatches((step for step, _ in tracker.shares(0, 1)), opened, note)

    def _worker_dataset(
        self, slots: BatchSlots, collate: Callable[[Any], Any] | None
    ) -> WorkerDataset:
        """What a loader's workers have in place of this dataset."""
        counts = self._counts.records
        return WorkerDataset(self._output, collate, self.unwrap, counts, self._skipped, slots)

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration of this process stands, as a JSON-serialisable dict.

        In a DataLoader worker the state is that of the worker alone, as
        `torchdata.stateful_dataloader.StatefulDataLoader` collects it from each.

        Returns
        -------
        dict
            As of `LanceDataLoader.state_dict`.

        Raises
        ------
        RuntimeError
            In the main process while workers make the batches: use `LanceDataLoader`.
        """
        order, tracker = self._epoch_order(self._cursor.layout), self._cursor.under_way
        if in_worker():
            at = self._shared_epoch.peek(process_number()) if tracker is None else tracker.at
            made = self._skip if tracker is None else tracker.taken
            state = make_state(at.settled(), order.describe(self._cursor.layout))
            return of_worker(state, *this_worker(), made)
        if self._has_loader:
            raise RuntimeError(
                "this dataset is iterated by a LanceDataLoader, which knows how many batches were "
                "delivered; take the state_dict() of that loader instead"
            )
        if tracker is None and self._shared_epoch.ran_in_workers:
            raise RuntimeError(
                "this dataset is iterated by DataLoader workers, which have come further than "
                "the batches delivered; take LanceDataLoader(dataset).state_dict() instead"
            )
        return self._cursor.state(order)

    def load_state_dict(self, state: Mapping[str, Any], allow: Iterable[str] = ()) -> None:
        """Let the next ``iter()`` continue where `state` was taken.

        The number of ranks and workers and the batch size may be others.

        Parameters
        ----------
        state : mapping
            From `state_dict`, of this dataset or of a `LanceDataLoader`.
        allow : set of str, default empty
            With ``{"weights"}`` a mixture goes on with weights, or with further sources, that the
            state does not know.

        Raises
        ------
        TypeError, ValueError
            If `state` is none, or belongs to other data or another order; every difference is
            named.
        """
        made = steps_of_worker(state, *this_worker())
        at, layout = self._read_state(state, self._cursor.layout, allow)
        if not in_worker():
            self._shared_epoch.wait_for_late()
        late = loads_where_it_begins(sys._getframe(1))
        self._cursor.restore(at, layout, self._epoch_order(layout), late)
        self._skip, self._has_loader = made, False

    @contextlib.contextmanager
    def _iterated_by(self, cursor: EpochCursor) -> Iterator[None]:
        """Have whoever iterates this dataset meanwhile begin where a cursor says."""
        own, self._cursor = self._cursor, cursor
        try:
            yield
        finally:
            self._cursor = own
            self._note_loader()

    def _note_loader(self) -> None:
        """Note that a loader begins: from now on it, and not this dataset, has the state."""
        self._has_loader = True
        self._cursor.is_named = False

    def _refuse_foreign_loader(self) -> None:
        refuse_second_sharding(self)
        if not self._is_named:
            refuse_blind_skip(self)

    @property
    def _is_named(self) -> bool:
        """Whether nobody has begun since an epoch was named or a state loaded."""
        return self._cursor.is_named and not self._shared_epoch.ran_in_workers


def _making(tracker: EpochTracker, step: int) -> str:
    """Which step of its epoch is the one of this number from where a tracker began."""
    before = tracker.order.steps_before(tracker.at.position)
    return f"making step {before + step} of epoch {tracker.at.epoch}"


def raising(error: Exception) -> Iterator[Any]:
    """An iterator that raises when it is asked: a worker that stays would die of it before."""
    raise error
    yield
