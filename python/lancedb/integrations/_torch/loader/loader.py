# SPDX-License-Identifier: Apache-2.0
"""`LanceDataLoader`: epochs, how many batches were delivered, and the state that follows."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader

from ..common.checks import one_of, whole_number
from ..datasets.base import warn_if_no_step, warn_if_rows_are_left_out
from ..datasets.keywords import refuse_override, refuse_unknown
from ..datasets.map_style import LanceTorchDataset
from ..datasets.sharded import ShardedDataset
from ..frameworks.accelerate import makes_batches_of
from ..frameworks.hugging_face import makes_masks
from ..frameworks.lightning import iterated_together, loop_of_lightning
from ..frameworks.ray import refuse_state_ahead, runs_ahead
from ..order.state import start_of, steps_of_worker
from ..workers.start import start_options
from . import lightning_epochs
from . import opentelemetry as otel
from .adapters import Adapter, IterableAdapter, MappedAdapter
from .epoch_iterator import EpochIterator
from .epochs import LoaderEpochs
from .options import (
    check_prefetch_factor,
    for_whole_batches,
    refuse_out_of_order,
    refuse_sampler,
)
from .sampler import RankSampler
from .throughput import Pace
from .worker_pool import WorkerPool


class LanceDataLoader(DataLoader):
    """A `torch.utils.data.DataLoader` that counts epochs and resumes at any batch.

    Each ``iter()`` is the next epoch, with the next order, unless `set_epoch` or `load_state_dict`,
    of the loader or of its iterable dataset, said otherwise. A new loader begins with epoch 0: use
    one for all epochs. An iterator from which nothing was taken has used up no epoch. A state is
    taken at the last batch *delivered*, whatever the workers have prefetched, and may be loaded
    with another number of workers and ranks.

    Parameters
    ----------
    dataset : LanceIterableTorchDataset, LanceMixedTorchDataset or LanceTorchDataset
        What to load. One that yields batches, of a table or of a mixture of several, has its own
        batch size, order, seed and shards.
    batch_size : int, optional
        Rows of one rank's batch, for a map-style dataset. Default: the dataset's, which is 100 if
        it was given none.
    shuffle : bool, optional
        For a map-style dataset: whether to shuffle all rows anew each epoch. Default: False.
    seed : int, optional
        For a map-style dataset: together with the epoch, decides the order. Default: 0.
    num_workers : int, default 0
        Worker processes. With 0, an iterable dataset still reads and converts ahead in threads,
        which is the fast way unless `transform` is heavy Python.
    **dataloader_kwargs
        As for `torch.utils.data.DataLoader`, except samplers and ``in_order=False``; ``generator``
        does not affect the order. For a map-style dataset ``drop_last`` (False if not given)
        belongs here. The start method of workers is ``"forkserver"`` where there is one, else
        ``"spawn"``, unless ``multiprocessing_context`` says otherwise.

    Attributes
    ----------
    metric_attributes : dict
        ``table`` and ``loader``, a number in this process: what distinguishes this loader from the
        others of `instrument_loader_metrics`.
    epoch, step : int
        The epoch in progress or, if there is none, the next one; and how many of its batches were
        delivered on this rank.
    batch_size : int
        Rows of one rank's batch, even if the dataset makes the batches.

    Raises
    ------
    TypeError
        If `dataset` is none of these.
    ValueError
        If an argument belongs to the dataset, is a sampler, or would deliver batches out of order;
        or if `num_workers` is not a number of workers.

    Notes
    -----
    An iterator raises whatever reading, converting or `transform` raised, in whichever process; a
    RuntimeError that names the worker if one has died; and a RuntimeError if it is asked for more
    after that. The state stays that of the last batch delivered. Threads may share an iterator, and
    then divide its batches among them. If ranks were given different seeds, filters, batch sizes or
    table versions, one of them raises a ValueError at its first batch, which names what differs.

    Examples
    --------
    >>> import lancedb
    >>> from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
    >>> db = lancedb.connect("memory://")
    >>> table = db.create_table("points", [{"x": i} for i in range(100)])
    >>> dataset = LanceIterableTorchDataset(table, format="torch", batch_size=10, shuffle=True)
    >>> loader = LanceDataLoader(dataset)
    >>> batches = iter(loader)
    >>> _ = next(batches)
    >>> state = loader.state_dict()
    >>> rest = [batch["x"].tolist() for batch in batches]
    >>> loader.load_state_dict(state)
    >>> rest == [batch["x"].tolist() for batch in loader]
    True
    """

    # What Accelerate asks of a loader: to leave it as it is, and to save and load its state.
    _is_accelerate_prepared = True
    use_stateful_dataloader = True

    def __init__(
        self,
        dataset: ShardedDataset | LanceTorchDataset,
        *,
        batch_size: int | None = None,
        shuffle: bool | None = None,
        seed: int | None = None,
        num_workers: int = 0,
        **dataloader_kwargs: Any,
    ):
        options = dict(dataloader_kwargs)
        refuse_unknown("LanceDataLoader", options, LanceDataLoader.__init__)
        num_workers = whole_number("num_workers", num_workers, 0)
        check_prefetch_factor(options.get("prefetch_factor"), num_workers)
        refuse_out_of_order(options)
        if num_workers:
            options |= start_options(options, opens_tables=not isinstance(dataset, ShardedDataset))
        if isinstance(dataset, ShardedDataset):
            options = for_whole_batches(options, batch_size=batch_size, shuffle=shuffle, seed=seed)
            if makes_masks(options["collate_fn"]) and not isinstance(dataset.schema, dict):
                dataset._output.refuse_padding_twice(options["collate_fn"], dataset.schema)
            refuse_override(
                dataset,
                "__iter__",
                "pass transform= to the dataset, or take torch.utils.data.DataLoader",
            )
            self._adapter: Adapter = IterableAdapter(dataset)
            dataset._is_no_source(stacklevel=4)
            if not dataset._has_warned and dataset._batching is None:
                dataset._has_warned = True
                warn_if_rows_are_left_out(self._adapter.steps(), self._adapter.order_name)
        elif isinstance(dataset, LanceTorchDataset):
            refuse_sampler(options)
            drop_last = one_of("drop_last", options.pop("drop_last", None), (None, False, True))
            adapter = MappedAdapter(dataset, batch_size, shuffle, seed or 0, bool(drop_last))
            warn_if_no_step(adapter.steps())
            self._adapter = adapter
            options["batch_sampler"] = adapter.sampler
        else:
            raise TypeError(
                "dataset must be a LanceIterableTorchDataset, a LanceMixedTorchDataset or a "
                f"LanceTorchDataset, not {type(dataset).__name__}; any other goes into "
                "torch.utils.data.DataLoader"
            )
        if num_workers:
            dataset._share_counts(num_workers + 1)
        self._cursor = self._adapter.cursor
        self._epochs = LoaderEpochs(dataset, self._adapter, num_workers, type(self).__name__)
        super().__init__(dataset, num_workers=num_workers, **options)
        self._pool = WorkerPool(self, self._adapter)
        self.metric_attributes = otel.watch(self)
        if isinstance(dataset, LanceTorchDataset):
            # The base class refuses it beside a batch_sampler.
            self.__dict__["sampler"] = RankSampler(dataset)

    def __iter__(self) -> Iterator[Any]:
        """The batches of the next epoch, or of the rest of the epoch whose state was loaded."""
        self._adapter.sync()
        loop = loop_of_lightning()
        if loop is not None:
            lightning_epochs.follow(self._cursor, loop)
        mode, together = iterated_together()
        cursors = [each._cursor for each in together if isinstance(each, LanceDataLoader)]
        lightning_epochs.join(self._cursor, mode, cursors)
        batches = self._iterate(loop)
        self._epochs.is_ahead = runs_ahead()
        return batches

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pool = WorkerPool(self, self._adapter)

    @property
    def batch_size(self) -> int | None:
        """Rows of one rank's batch, whether the loader makes it of rows or the dataset does."""
        return None if makes_batches_of(sys._getframe(1), self) else self._adapter.batch_size

    @batch_size.setter
    def batch_size(self, value: int | None) -> None:
        """Left to the dataset or the sampler: torch sets None, by which it takes whole batches."""

    def __repr__(self) -> str:
        known = self._epochs.order().known_steps()
        steps = f"step={self.step}" + ("" if known is None else f" of {known}")
        return (
            f"{type(self).__name__}({self.dataset!r}, epoch={self.epoch}, {steps}, "
            f"num_workers={self.num_workers})"
        )

    def __len__(self) -> int:
        """How many batches an epoch has on this rank, the same on every rank.

        With the dataset's `batching` it differs a little from epoch to epoch: it is that of the
        epoch in progress or to come, which is planned to its end for this.
        """
        return self._epochs.order().all_steps()

    def set_epoch(self, epoch: int) -> None:
        """Begin this epoch with the next ``iter()``, from its first batch.

        If a state in the middle of this very epoch was loaded just before, the epoch continues
        there; if that state says that this epoch has ended, no batch comes, and the next epoch
        follows.

        Parameters
        ----------
        epoch : int
            From 0 on.

        Raises
        ------
        ValueError
            If `epoch` is not such a number.
        """
        at = start_of(epoch)
        self._adapter.sync()
        tracker = self._cursor.under_way
        if tracker is None or not tracker.is_to_come or tracker.at[:2] != at[:2]:
            self._cursor.seek(at.epoch)
        self._adapter.announce()

    @property
    def epoch(self) -> int:
        """The epoch that is in progress, until its iterator has ended; then the next one.

        It is 0 in a new loader, and that of the state after `load_state_dict`.
        """
        tracker = self._cursor.under_way
        if tracker is not None and tracker.is_under_way:
            return tracker.at.epoch
        return self._adapter.standing().place.epoch

    @property
    def step(self) -> int:
        """This epoch's batches delivered on this rank, including those before a resume."""
        tracker = self._cursor.under_way
        if tracker is not None and tracker.is_under_way:
            return tracker.order.steps_before(tracker.at.position) + tracker.taken
        return self._epochs.order().steps_before(self._adapter.standing().place.position)

    def epochs(self, count: int) -> Iterator[int]:
        """The numbers of the epochs that are left until there were `count`.

        It counts from where the loader stands: from 0 or, once a state was loaded, from the epoch
        of that state, the rest of which the first ``for batch in loader`` then gives. An epoch that
        the loop breaks off is over.

        Parameters
        ----------
        count : int
            How many epochs there should be in all, including those before a resume.

        Yields
        ------
        int
            The epoch that the next ``iter(loader)`` is.

        Raises
        ------
        ValueError
            If `count` is not a whole number from 0 on.

        Examples
        --------
        >>> import lancedb
        >>> from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
        >>> table = lancedb.connect("memory://").create_table("t", [{"x": i} for i in range(100)])
        >>> loader = LanceDataLoader(LanceIterableTorchDataset(table, batch_size=10))
        >>> for epoch in loader.epochs(2):
        ...     print(epoch, sum(len(batch) for batch in loader))
        0 100
        1 100
        >>> list(loader.epochs(2))
        []
        """
        whole = start_of(count, "count").epoch
        return self._epochs_until(whole)

    def _epochs_until(self, count: int) -> Iterator[int]:
        self._adapter.sync()
        self._cursor.resume()  # an epoch that was broken off before goes on
        while (at := self._cursor.begins).epoch < count:
            generation = self._cursor.generation
            yield at.epoch
            self._adapter.sync()
            if (self._cursor.begins, self._cursor.generation) == (at, generation):
                self.set_epoch(at.epoch + 1)  # it was not iterated

    def peek(self) -> Any:
        """The batch that comes next, without using it up.

        If an iterator is in progress it is its next batch, otherwise the first of the next
        ``iter()``, which then begins with this very batch. No epoch is used up, and no state
        changes.

        Returns
        -------
        batch
            In the dataset's format, after `transform` and ``collate_fn``.

        Raises
        ------
        ValueError
            If epochs have no batch.

        Examples
        --------
        >>> import lancedb
        >>> from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
        >>> table = lancedb.connect("memory://").create_table("t", [{"x": i} for i in range(100)])
        >>> dataset = LanceIterableTorchDataset(table, format="torch", batch_size=10, shuffle=True)
        >>> loader = LanceDataLoader(dataset)
        >>> look = loader.peek()
        >>> look["x"].shape
        torch.Size([10])
        >>> next(iter(loader))["x"] is look["x"]
        True
        """
        self._adapter.sync()
        named = self._cursor.begins
        if named == named.settled():
            return self._peek()
        self._cursor.resume()  # past the epoch that was named, and has ended
        try:
            return self._peek()
        finally:
            self._cursor.seek(named.epoch)

    def _peek(self) -> Any:
        latest = self._epochs.latest
        is_live = self._cursor.under_way is not None and latest is not None and latest._has_more()
        if latest is None or not is_live:
            if latest is not None:
                latest._exhaust()
            latest = self._iterate()
        try:
            batch = latest._peek()
        except StopIteration:
            raise ValueError(
                f"there is no batch to look at: {self.dataset!r} has fewer rows than one step"
            ) from None
        if not is_live:
            self._epochs.prepared = latest._pass_on()
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where the last batch delivered leaves the epoch: JSON-serialisable, rank-independent.

        Returns
        -------
        dict
            ``format_version``, ``epoch``, ``position`` (rows of the epoch's sequence that were
            delivered to all ranks), ``plan`` (all that the order depends on) and, after the last
            batch of an epoch, at position 0 of the next one, ``ended``: the epoch that is over.

        Raises
        ------
        RuntimeError
            In mid-epoch, if Ray's ``prepare_data_loader`` iterates this loader: it is one batch
            ahead.
        """
        tracker = self._cursor.under_way
        if self._epochs.is_ahead and tracker is not None and not tracker.is_to_come:
            refuse_state_ahead()
        is_under_way = tracker is not None and tracker.is_under_way
        stands = self._cursor if is_under_way else self._adapter.standing()
        return stands.state(self._adapter.order(stands.layout))

    def load_state_dict(self, state: Mapping[str, Any], allow: Iterable[str] = ()) -> None:
        """Continue where `state` was taken, at the next batch asked for.

        That batch may come from the next ``iter()``, or from an iterator in progress.

        Parameters
        ----------
        state : mapping
            From `state_dict`, of a loader or of an iterable dataset, on any number of ranks and
            workers.
        allow : set of str, default empty
            With ``{"weights"}`` a mixture continues with weights, or with further sources, that the
            state does not know.

        Raises
        ------
        TypeError, ValueError
            If `state` is not a state, or belongs to other data or another order; every difference
            is named.
        """
        steps_of_worker(state, 0, 1)  # raises for the state of a single worker
        at, layout = self._adapter.read_state(state, allow)
        self._adapter.sync()  # what was said before counts no more
        self._cursor.restore(at, layout, self._adapter.order(layout))
        self._adapter.announce()
        self._epochs.is_restored = True

    def stats(self) -> dict[str, Any]:
        """What was loaded so far, how fast, and where the seconds went.

        Returns
        -------
        dict
            As the dataset's ``stats()``, but for this loader alone, and with ``waiting`` as the
            seconds in which the consumer waited for a batch. ``working``: seconds between a batch
            and the call for the next one. ``wait_share``: waiting as a share of both.
            ``delivered``: rows delivered, and ``rows_per_second`` of them. ``epoch``, ``step`` and
            ``steps``: the epoch in progress, how many of its batches were delivered on this rank,
            and how many it has on it (None if `batching` makes them and the epoch is not planned to
            its end). A mixture also has ``sources``: by name, the ``rows`` that all ranks were
            given, counted over all epochs, and the ``epoch`` of the source.

        Examples
        --------
        >>> import lancedb
        >>> from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
        >>> table = lancedb.connect("memory://").create_table("t", [{"x": i} for i in range(100)])
        >>> loader = LanceDataLoader(LanceIterableTorchDataset(table, batch_size=10))
        >>> for batch in loader:
        ...     pass
        >>> stats = loader.stats()
        >>> stats["delivered"], stats["step"], stats["steps"], 0 <= stats["wait_share"] <= 1
        (100, 10, 10, True)
        """
        total = self._epochs.total
        return {
            **self._epochs.stats(),
            "waiting": total.waiting,
            "working": total.working,
            "wait_share": total.wait_share,
            "delivered": total.rows,
            "rows_per_second": total.rows_per_second,
            **self._place(),
            **self._adapter.progress(self._cursor.place),
        }

    def postfix(self) -> dict[str, str]:
        """Epoch, step, rows per second and wait share of this epoch, for a progress bar.

        Rows and waiting are those of this rank, which is named if there are several. For a mixture
        there is also how often each source was gone through.

        Examples
        --------
        >>> import lancedb
        >>> from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
        >>> from tqdm import tqdm
        >>> table = lancedb.connect("memory://").create_table("t", [{"x": i} for i in range(100)])
        >>> loader = LanceDataLoader(LanceIterableTorchDataset(table, format="torch"))
        >>> with tqdm(loader, disable=True) as bar:
        ...     for batch in bar:
        ...         bar.set_postfix(loader.postfix())
        >>> list(loader.postfix())
        ['epoch', 'step', 'rows/s', 'wait']
        """
        meters = self._epochs.meters
        pace = meters.pace if meters is not None else Pace()
        place = self._place()
        rank, ranks = self._adapter.rank_and_world_size()
        return {
            "epoch": str(place["epoch"]),
            "step": f"{place['step']}/{place['steps'] or '?'}",
            "rows/s": f"{pace.rows_per_second:,.0f}",
            "wait": f"{pace.wait_share:.0%}",
            **({"rank": f"{rank}/{ranks}"} if ranks > 1 else {}),
            **{
                name: f"{source['epoch']:.2f}"
                for name, source in self._adapter.progress(self._cursor.place)
                .get("sources", {})
                .items()
            },
        }

    def skipped_rows(self) -> list[int]:
        """As the dataset's ``skipped_rows()``, from all worker processes.

        Returns
        -------
        list of int
            Offsets in the table version that is read.
        """
        return self.dataset.skipped_rows()  # type: ignore[attr-defined]

    def _place(self) -> dict[str, Any]:
        """Epoch and step of the iteration under way or begun last, and the steps of an epoch."""
        tracker = self._cursor.under_way
        at, taken = (self._cursor.next, 0) if tracker is None else (tracker.at, tracker.taken)
        at = at.settled()
        order = self._adapter.order().of(at.epoch, self._cursor.layout)
        step = order.steps_before(at.position) + taken
        return {"epoch": at.epoch, "step": step, "steps": order.known_steps()}

    def _iterate(self, loop: Any = None) -> EpochIterator:
        return EpochIterator(self._epochs, self._pool, self, loop)
