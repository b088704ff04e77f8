# SPDX-License-Identifier: Apache-2.0
"""Knows epochs, how many batches were delivered, and the state that follows from it; no rows."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping
from multiprocessing import forkserver
from typing import Any, Protocol

from torch.utils.data import DataLoader

from .iterable import LanceIterableTorchDataset
from .mapped import LanceTorchDataset
from .position import Position, steps_of_worker
from .progress import MappedProgress
from .sampler import DealtSampler
from .stats import shared_board
from .steps import Steps

_PRELOAD = "lancedb.integrations._torch.preload"


class Resumable(Protocol):
    """What the loader asks of either kind of dataset."""

    def steps(self, start: int = 0) -> Steps: ...

    def begin_at(self, at: Position) -> None: ...

    def state_at(self, at: Position) -> dict[str, Any]: ...

    def adopt_state(self, state: Mapping[str, Any]) -> Position: ...


class LanceDataLoader(DataLoader):
    """A `torch.utils.data.DataLoader` that counts epochs and resumes at any batch.

    Each ``iter()`` is the next epoch, with the next order, unless `set_epoch` or
    `load_state_dict` said otherwise. A state is taken at the last batch *delivered*, whatever the
    workers have prefetched, and may be loaded with another number of workers and ranks.

    Parameters
    ----------
    dataset : LanceIterableTorchDataset or LanceTorchDataset
        What to load. An iterable dataset has its own batch size, order, seed and shards.
    batch_size : int, optional
        Rows of one rank's batch, for a map-style dataset. Default: the dataset's.
    shuffle : bool, optional
        For a map-style dataset: whether to shuffle all rows anew each epoch. Default: False.
    seed : int
        For a map-style dataset: with the epoch, decides the order.
    num_workers : int
        Worker processes. With 0, reading and converting still run ahead in threads, which is
        the fast way for an iterable dataset unless `transform` is heavy Python.
    **dataloader_kwargs
        As for `torch.utils.data.DataLoader`. ``drop_last`` belongs here for a map-style dataset.
        The start method of workers is ``"forkserver"`` where there is one, else ``"spawn"``,
        unless ``multiprocessing_context`` says otherwise.

    Raises
    ------
    TypeError
        If `dataset` is neither of the two.
    ValueError
        If an argument belongs to the dataset.

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
        if num_workers and options.get("multiprocessing_context") is None:
            options["multiprocessing_context"] = default_start_method()
            preload_workers()
        if isinstance(dataset, LanceIterableTorchDataset):
            _refuse(batch_size=batch_size, shuffle=shuffle, seed=seed or None, **options)
            self._resumable: Resumable = dataset
            options["batch_size"] = None
            # torch's default would look at every value of a batch for numpy arrays to convert.
            if options.get("collate_fn") is None:
                options["collate_fn"] = as_it_is
        elif isinstance(dataset, LanceTorchDataset):
            _refuse_samplers(options)
            drop_last = options.pop("drop_last", False)
            progress = MappedProgress(dataset, batch_size, shuffle, seed, drop_last)
            self._resumable = progress
            options["batch_sampler"] = progress.sampler
        else:
            raise TypeError(
                "dataset must be a LanceIterableTorchDataset or a LanceTorchDataset, not "
                f"{type(dataset).__name__}; any other goes into torch.utils.data.DataLoader"
            )
        if num_workers:
            dataset.share_stats(shared_board(num_workers + 1))
        self._next = Position()
        self._now: _Progress | None = None
        super().__init__(dataset, num_workers=num_workers, **options)
        if isinstance(dataset, LanceTorchDataset):
            # The base class lets nobody set it who also gives a batch_sampler.
            self.__dict__["sampler"] = DealtSampler(dataset)

    def __iter__(self) -> Iterator[Any]:
        return _Delivery(self, self._resume())

    def __len__(self) -> int:
        """How many batches an epoch has on this rank, the same on every rank."""
        return self._resumable.steps().num_steps

    def set_epoch(self, epoch: int) -> None:
        """Let the next ``iter()`` be this epoch, from its beginning.

        Where a state in the middle of this very epoch was loaded just before, it goes on there.
        """
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            raise ValueError(f"epoch must be a whole number from 0 on, not {epoch!r}")
        if self._next.epoch != epoch or not self._next.position:
            self._go_to(Position(epoch))

    def state_dict(self) -> dict[str, Any]:
        """Where the last batch delivered leaves the epoch: JSON-serialisable, rank-independent.

        Returns
        -------
        dict
            ``format_version``, ``epoch``, ``position`` (rows of the epoch's sequence that were
            delivered to all ranks) and ``plan`` (all that the order depends on).
        """
        at = self._now.position if self._now is not None else self._next
        return self._resumable.state_at(at)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken, at the next batch asked for.

        That batch may come from the next ``iter()``, or from an iterator that is under way.

        Raises
        ------
        TypeError, ValueError
            If `state` is none, or belongs to other data or another order; every difference is
            named.
        """
        steps_of_worker(state, 0, 1)  # raises for the state of a single worker
        self._go_to(self._resumable.adopt_state(state))

    def stats(self) -> dict[str, Any]:
        """As the dataset's ``stats()``, summed over the worker processes."""
        return self.dataset.stats()  # type: ignore[attr-defined]

    def _go_to(self, at: Position) -> None:
        self._next = at
        self._resumable.begin_at(at)  # for whoever iterates the dataset in place of this loader
        if self._now is not None:
            self._now.superseded = True
            self._now = None

    def _start(self, at: Position) -> _Progress:
        """Begin to count the batches from a position on."""
        self._resumable.begin_at(at)
        self._now = _Progress(at, self._resumable.steps(at.position))
        return self._now

    def _resume(self) -> _Progress:
        """Begin where the next epoch was said to begin."""
        at, self._next = self._next, Position(self._next.epoch + 1)
        return self._start(at)

    def _batches(self) -> Iterator[Any]:
        """The batches from where the dataset was told to begin, as the base class makes them."""
        return super().__iter__()


class _Progress:
    """How far one iterator has come. The loader keeps this and not the iterator, which would
    keep its worker processes for as long."""

    def __init__(self, at: Position, steps: Steps):
        self._at = at
        self._steps = steps
        self.delivered = 0
        self.superseded = False

    @property
    def position(self) -> Position:
        """After the last batch that was handed out."""
        if self.delivered == 0:
            return self._at
        return Position(self._at.epoch, self._steps.position_after(self.delivered - 1))


class _Delivery:
    """One epoch's iterator: hands out batches and counts them."""

    def __init__(self, loader: LanceDataLoader, progress: _Progress):
        self._loader = loader
        self._progress = progress
        self._batches: Iterator[Any] | None = loader._batches()

    def __iter__(self) -> _Delivery:
        return self

    def __next__(self) -> Any:
        if self._progress.superseded:
            self._batches = None  # the batches under way are given up before others are asked for
            self._progress = self._loader._resume()
            self._batches = self._loader._batches()
        batch = next(self._batches)  # type: ignore[arg-type]
        self._progress.delivered += 1
        return batch


def as_it_is(batch: Any) -> Any:
    """The collate function for batches that are whole already."""
    return batch


def default_start_method() -> str:
    """``"forkserver"`` where the platform has it, else ``"spawn"``."""
    methods = multiprocessing.get_all_start_methods()
    return "forkserver" if "forkserver" in methods else "spawn"


def preload_workers() -> None:
    """Have the fork server, if it is not running yet, import what every worker needs.

    Workers then start in a fraction of a second, as they are forked off a process that has it
    all, and safely, as that process has no reader. What others asked it to import stays.
    """
    known = list(getattr(forkserver._forkserver, "_preload_modules", ["__main__"]))
    if _PRELOAD not in known:
        forkserver.set_forkserver_preload([*known, _PRELOAD])


def _refuse(**arguments: Any) -> None:
    """Raise for what belongs to the iterable dataset."""
    owned = ("batch_size", "shuffle", "seed", "drop_last", "sampler", "batch_sampler")
    given = [name for name in owned if arguments.get(name) is not None]
    if given:
        raise ValueError(
            f"{', '.join(given)} belong{'s' if len(given) == 1 else ''} to the dataset: give "
            f"{'it' if len(given) == 1 else 'them'} to LanceIterableTorchDataset"
        )


def _refuse_samplers(options: Mapping[str, Any]) -> None:
    """Raise for a sampler, also one that a framework gives to a loader that it makes anew."""
    given = [name for name in ("sampler", "batch_sampler") if options.get(name) is not None]
    if given:
        raise ValueError(
            f"LanceDataLoader brings its own order and deals it to the ranks, and takes no "
            f"{given[0]} ({type(options[given[0]]).__name__}). Give that to "
            "torch.utils.data.DataLoader; or, if a framework put it in, have it not do so, as by "
            "Lightning's Trainer(use_distributed_sampler=False), and predict with a DataLoader"
        )
