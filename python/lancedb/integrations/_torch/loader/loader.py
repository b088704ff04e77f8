# SPDX-License-Identifier: Apache-2.0
"""`LanceDataLoader`: epochs, how many batches were delivered, and the state that follows."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch.utils.data import DataLoader

from ..common.counters import SECONDS
from ..datasets.base import positive, warn_if_no_step
from ..datasets.iterable import LanceIterableTorchDataset
from ..datasets.map_style import LanceTorchDataset
from ..frameworks.lightning import epoch_of, loop_of_lightning, overfits, refuse_late_state
from ..frameworks.ray import refuse_state_ahead, runs_ahead
from ..order.state import Position, start_of, steps_of_worker
from ..order.steps import Steps
from ..workers.start import start_options
from ..workers.watchdog import describe_worker, first_ended, have_all_begun, kill_workers
from . import opentelemetry as otel
from .adapters import IterableProgress, MappedProgress
from .epoch_iterator import Delivery, Progress
from .in_process import InProcess, draw_seed
from .options import for_whole_batches, refuse_out_of_order, refuse_sampler
from .sampler import DealtSampler
from .throughput import Pace, hint

_log = logging.getLogger("lancedb.integrations.torch")
# A worker that was told to begin has to look where, and does nothing before.
_BEGUN_WITHIN = 60.0


class Resumable(Protocol):
    """What the loader asks of either kind of dataset."""

    @property
    def shuffle(self) -> str: ...

    def rank_and_world_size(self) -> tuple[int, int]: ...

    def steps(self, start: int = 0) -> Steps: ...

    def told(self) -> Position | None: ...

    def begin_at(self, at: Position) -> None: ...

    def has_begun(self, worker: int) -> bool: ...

    def state_at(self, at: Position) -> dict[str, Any]: ...

    def adopt_state(self, state: Mapping[str, Any]) -> Position: ...


class LanceDataLoader(DataLoader):
    """A `torch.utils.data.DataLoader` that counts epochs and resumes at any batch.

    Each ``iter()`` is the next epoch, with the next order, unless `set_epoch` or
    `load_state_dict`, of the loader or of its iterable dataset, said otherwise. A new loader begins
    with epoch 0: keep one for all epochs. An iterator from which nothing was taken has used up
    none. A state is taken at the last batch *delivered*, whatever the workers have prefetched, and
    may be loaded with another number of workers and ranks.

    Parameters
    ----------
    dataset : LanceIterableTorchDataset or LanceTorchDataset
        What to load. An iterable dataset has its own batch size, order, seed and shards.
    batch_size : int, optional
        Rows of one rank's batch, for a map-style dataset. Default: the dataset's, which is 100 if
        it was given none.
    shuffle : bool, optional
        For a map-style dataset: whether to shuffle all rows anew each epoch. Default: False.
    seed : int, default 0
        For a map-style dataset: with the epoch, decides the order.
    num_workers : int, default 0
        Worker processes. With 0, an iterable dataset still reads and converts ahead in threads,
        which is the fast way unless `transform` is heavy Python.
    **dataloader_kwargs
        As for `torch.utils.data.DataLoader`, but for samplers and ``in_order=False``; ``generator``
        has no say in the order. ``drop_last`` (False if not given) belongs here for a map-style
        dataset. The start method of workers is ``"forkserver"`` where there is one, else
        ``"spawn"``, unless ``multiprocessing_context`` says otherwise.

    Attributes
    ----------
    metric_attributes : dict
        ``table`` and ``loader``, a number in this process: what tells this loader apart among
        those of `instrument_loader_metrics`.

    Raises
    ------
    TypeError
        If `dataset` is neither of the two.
    ValueError
        If an argument belongs to the dataset, is a sampler, or would deliver batches out of order;
        or if `num_workers` is no number of workers.

    Notes
    -----
    An iterator raises whatever reading, converting or `transform` raised, in whichever process; a
    RuntimeError that names the worker if one has died; and a RuntimeError if it is asked for more
    after that. The state stays that of the last batch delivered.

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
        dataset: LanceIterableTorchDataset | LanceTorchDataset,
        *,
        batch_size: int | None = None,
        shuffle: bool | None = None,
        seed: int = 0,
        num_workers: int = 0,
        **dataloader_kwargs: Any,
    ):
        options = dict(dataloader_kwargs)
        num_workers = positive("num_workers", num_workers, or_zero=True)
        refuse_out_of_order(options)
        if num_workers:
            options |= start_options(options)
        if isinstance(dataset, LanceIterableTorchDataset):
            options = for_whole_batches(
                options, batch_size=batch_size, shuffle=shuffle, seed=seed or None
            )
            self._resumable: Resumable = IterableProgress(dataset)
            _advise_on_workers(dataset, num_workers)
        elif isinstance(dataset, LanceTorchDataset):
            refuse_sampler(options)
            drop_last = options.pop("drop_last", False)
            progress = MappedProgress(dataset, batch_size, shuffle, seed, drop_last)
            warn_if_no_step(progress.steps())
            self._resumable = progress
            options["batch_sampler"] = progress.sampler
        else:
            raise TypeError(
                "dataset must be a LanceIterableTorchDataset or a LanceTorchDataset, not "
                f"{type(dataset).__name__}; any other goes into torch.utils.data.DataLoader"
            )
        if num_workers:
            dataset.share_counts(num_workers + 1)
        self._next = Position()
        self._now: Progress | None = None
        self._latest: weakref.ref[Delivery] | None = None
        self._running: weakref.ref[Any] | None = None  # torch's iterator, if workers make batches
        self._told = self._restored = False
        self._hints: set[str | None] = set()
        self.total = Pace()
        super().__init__(dataset, num_workers=num_workers, **options)
        self.metric_attributes = otel.watch(self)
        if isinstance(dataset, LanceTorchDataset):
            # The base class lets nobody set it who also gives a batch_sampler.
            self.__dict__["sampler"] = DealtSampler(dataset)

    def __iter__(self) -> Iterator[Any]:
        """The batches of the next epoch, or of the rest of the one that a state was loaded of."""
        self._listen()
        loop = loop_of_lightning()
        if loop is not None:
            self._follow(loop)
        batches = Delivery(self, loop)
        if self._now is not None:
            self._now.ahead = runs_ahead()
        return batches

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_latest": None, "_running": None}

    def __len__(self) -> int:
        """How many batches an epoch has on this rank, the same on every rank."""
        return self._resumable.steps().num_steps

    def set_epoch(self, epoch: int) -> None:
        """Let the next ``iter()`` be this epoch, from its beginning.

        Where a state in the middle of this very epoch was loaded just before, it goes on there.

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
        self._listen()
        self._told = True
        now = self._now
        if now is not None and not now.untouched and not now.over:
            self._next = at  # the iterator that is under way goes on
            self._begin_at(at)
            return
        to_come = now.at if now is not None and now.untouched else self._next
        if to_come.epoch != epoch or not to_come.position:
            self._go_to(at)

    def state_dict(self) -> dict[str, Any]:
        """Where the last batch delivered leaves the epoch: JSON-serialisable, rank-independent.

        Returns
        -------
        dict
            ``format_version``, ``epoch``, ``position`` (rows of the epoch's sequence that were
            delivered to all ranks) and ``plan`` (all that the order depends on).

        Raises
        ------
        RuntimeError
            In mid-epoch, if Ray's ``prepare_data_loader`` iterates this loader: it is one batch
            ahead.
        """
        if self._now is not None and self._now.ahead:
            refuse_state_ahead()
        if self._now is None or self._now.over or self._now.untouched:
            self._listen()
        at = self._now.position if self._now is not None else self._next
        return self._resumable.state_at(at)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken, at the next batch asked for.

        That batch may come from the next ``iter()``, or from an iterator that is under way.

        Parameters
        ----------
        state : mapping
            From `state_dict`, of a loader or of an iterable dataset, on any number of ranks and
            workers.

        Raises
        ------
        TypeError, ValueError
            If `state` is none, or belongs to other data or another order; every difference is
            named.
        """
        steps_of_worker(state, 0, 1)  # raises for the state of a single worker
        self._go_to(self._resumable.adopt_state(state))
        self._told = self._restored = True

    def stats(self) -> dict[str, Any]:
        """What was loaded so far, how fast, and where the seconds went.

        Returns
        -------
        dict
            As the dataset's ``stats()``, but of this loader alone, and with ``waiting`` as the
            seconds in which the consumer waited for a batch. ``working``: seconds between a batch
            and the call for the next one. ``wait_share``: waiting as a share of both.
            ``delivered``: rows handed out, and ``rows_per_second`` of them. ``epoch``, ``step``
            and ``steps``: the epoch under way, its batches handed out, and all it has on this
            rank.

        Examples
        --------
        >>> import lancedb
        >>> table = lancedb.connect("memory://").create_table("t", [{"x": i} for i in range(100)])
        >>> loader = LanceDataLoader(LanceIterableTorchDataset(table, batch_size=10))
        >>> for batch in loader:
        ...     pass
        >>> stats = loader.stats()
        >>> stats["delivered"], stats["step"], stats["steps"], 0 <= stats["wait_share"] <= 1
        (100, 10, 10, True)
        """
        return {
            **self.dataset.stats_for(self),  # type: ignore[attr-defined]
            "waiting": self.total.waiting,
            "working": self.total.working,
            "wait_share": self.total.wait_share,
            "delivered": self.total.rows,
            "rows_per_second": self.total.rows_per_second,
            **self._place(),
        }

    def postfix(self) -> dict[str, str]:
        """Epoch, step, rows per second and wait share of this epoch, for a progress bar.

        Examples
        --------
        >>> import lancedb
        >>> from tqdm import tqdm
        >>> table = lancedb.connect("memory://").create_table("t", [{"x": i} for i in range(100)])
        >>> loader = LanceDataLoader(LanceIterableTorchDataset(table, format="torch"))
        >>> with tqdm(loader, disable=True) as bar:
        ...     for batch in bar:
        ...         bar.set_postfix(loader.postfix())
        >>> list(loader.postfix())
        ['epoch', 'step', 'rows/s', 'wait']
        """
        pace = self._now.pace if self._now is not None else Pace()
        place = self._place()
        return {
            "epoch": str(place["epoch"]),
            "step": f"{place['step']}/{place['steps']}",
            "rows/s": f"{pace.rows_per_second:,.0f}",
            "wait": f"{pace.wait_share:.0%}",
        }

    def skipped_rows(self) -> list[int]:
        """As the dataset's ``skipped_rows()``, of all worker processes.

        Returns
        -------
        list of int
            Offsets in the table version that is read.
        """
        return self.dataset.skipped_rows()  # type: ignore[attr-defined]

    def _place(self) -> dict[str, int]:
        at = self._next if self._now is None else self._now.at
        left = self._resumable.steps(at.position).num_steps
        before = len(self) - left  # batches that were handed out before the epoch was resumed
        done = 0 if self._now is None else self._now.pace.batches
        return {"epoch": at.epoch, "step": before + done, "steps": before + left}

    def _go_to(self, at: Position) -> None:
        self._next = at
        self._begin_at(at)  # for whoever iterates the dataset in place of this loader
        if self._now is not None:
            self._now.superseded = True
            self._now = None

    def _begin_at(self, at: Position) -> None:
        running, self._running = self._running, None
        batches = running() if running is not None else None
        if batches is not None and not have_all_begun(
            batches, self._resumable.has_begun, _BEGUN_WITHIN
        ):
            kill_workers(batches)
        self._resumable.begin_at(at)

    def _listen(self) -> None:
        """Begin where the dataset was told to by somebody who has it and not this loader."""
        told = self._resumable.told()
        if told is not None:
            self._go_to(told)
            self._told = True

    def _follow(self, loop: Any) -> None:
        """Begin at the epoch of Lightning's loop, where nobody has named another."""
        epoch = epoch_of(loop)
        if overfits(loop) and self._now is not None:
            self._go_to(Position(self._now.at.epoch))
        elif epoch is not None and self._now is None and not self._told:
            self._go_to(Position(epoch))

    # -- for the iterator ----------------------------------------------------------------------

    def succeed(self, iterator: Delivery) -> Delivery | None:
        """Note who iterates from now on; returns who did before, if nothing was taken from it."""
        latest, self._latest = self._latest, weakref.ref(iterator)
        untouched = self._now is not None and self._now.untouched
        return latest() if latest is not None and untouched else None

    def check_start(self, loop: Any) -> None:
        """Raise where Lightning begins to train without the state that it has for this loader."""
        if not self._restored:
            refuse_late_state(loop)

    def resume(self) -> Progress:
        """Begin where the next epoch was said to begin."""
        if self._now is not None and self._now.untouched:
            at = self._now.at
        else:
            at, self._next = self._next, Position(self._next.epoch + 1)
        self._begin_at(at)
        rank = self._resumable.rank_and_world_size()[0]
        self.dataset.count_for(self)  # type: ignore[attr-defined]
        spent = self.dataset.stats_for(self)  # type: ignore[attr-defined]
        self._now = Progress(at, self._resumable.steps(at.position), rank, spent)
        return self._now

    def kept_workers(self) -> Iterator[Any] | None:
        """torch's iterator over the workers that persist; None if there are to be new ones.

        For one that has died since the last epoch torch would raise, at every epoch to come.
        """
        kept: Any = self._iterator
        if kept is None:
            return None
        gone = first_ended(kept)
        if gone is None:
            return kept
        worker = describe_worker(kept, gone).worker
        _log.warning("%s: %s between epochs; all are started anew", type(self).__name__, worker)
        self.end_workers(kept)
        return None

    def end_workers(self, batches: Iterator[Any] | None) -> None:
        """End the workers of an iterator that failed; the next ``iter()`` starts them anew."""
        self._iterator = None
        if getattr(batches, "_workers", None):
            kill_workers(batches)  # torch would wait five seconds for each that is busy
            batches._shutdown_workers()  # type: ignore[union-attr]

    def batches(self) -> Iterator[Any]:
        """The batches from where the dataset was told to begin, as the base class makes them."""
        if self._needs_no_torch:
            draw_seed(self.generator)
            return InProcess(iter(self.dataset), self.collate_fn)
        batches = super().__iter__()
        if getattr(batches, "_workers", None):
            self._running = weakref.ref(batches)
        return batches

    @property
    def _needs_no_torch(self) -> bool:
        """Whether all that is left to do for a batch is to hand it on."""
        whole = isinstance(self.dataset, LanceIterableTorchDataset)
        return whole and not (self.num_workers or self.pin_memory or self.timeout)

    def advise(self, progress: Progress) -> None:
        """Log, once each, who waits for whom in an epoch and what to do about it."""
        now = self.dataset.stats_for(self)  # type: ignore[attr-defined]
        spent = {name: now[name] - progress.spent[name] for name in SECONDS}
        threads = getattr(self.dataset, "transform_threads", None)
        advice = hint(progress.steady, spent, self._resumable.shuffle, self.num_workers, threads)
        remedy = advice.rpartition(": ")[2] if advice is not None else None
        if advice is not None and remedy not in self._hints:
            self._hints.add(remedy)
            _log.warning("%s: %s", type(self).__name__, advice)


def _advise_on_workers(dataset: LanceIterableTorchDataset, num_workers: int) -> None:
    """Log how many workers would do if so many read the same blocks."""
    times = dataset.times_read(num_workers) if num_workers else 1
    if times > 1:
        fewer = max(count for count in range(1, num_workers) if dataset.times_read(count) == 1)
        _log.warning(
            "LanceDataLoader: %d workers read each block of the shuffle %d times, and hold as much "
            "more in memory: num_workers=%d would read it once",
            num_workers,
            times,
            fewer,
        )
