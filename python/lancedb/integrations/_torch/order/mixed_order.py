# SPDX-License-Identifier: Apache-2.0
"""The steps of one epoch of a mixture as rows of its sources, and the windows to read them in.

A step is its rows in order of shards, and a shard's part of it is shuffled, so that sources stand
in no pattern. Which rows these are is `mixture`'s to say; each source has a plan of its own for
each of its epochs (`epoch_order`, in `shards`), whose windows `mixed_windows` numbers.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np

from .epoch_order import Draws, EpochOrder
from .index_shuffle import derive_key, hashed
from .layout import Layout
from .mixed_windows import DrawnRows, OpenWindows, Stretch, WindowPlanner
from .mixture import Mixture
from .read_schedule import Span
from .shards import Shards, epoch_at, rows_before
from .step_mixture import StepMixture
from .steps import Steps
from .window_slices import WindowSlices, divided, runs

_SOURCE, _STEP = 1, 2
_SHARD_BITS = 7
_HASH_BITS = 40
_LAST = np.iinfo(np.int64).max
_KNOWN = 1024


@dataclass(frozen=True)
class SourceOrder:
    """The order of one source's rows through its epochs.

    Parameters
    ----------
    name : str
        By which its orders differ from those of other sources.
    rows : int
        How many rows it has, or draws in each of its epochs.
    shuffle : {"none", "block", "global"}
        As in `EpochOrder`.
    layout : Layout
        Blocks, windows and lanes; its chunk is also that in which an unshuffled source is sharded.
    in_memory : bool
        Whether its rows are read once: then windows serve nothing.
    draws : Draws, optional
        Which rows are drawn in proportion to weights.
    """

    name: str
    rows: int
    shuffle: str
    layout: Layout
    in_memory: bool = False
    draws: Draws | None = None

    def shards(self, seed: int, epoch: int, count: int) -> Shards:
        """Its rows in one of its epochs, in shards."""
        key = derive_key(seed, _SOURCE, int.from_bytes(self.name.encode(), "big"))
        of = vars(self.layout)
        return Shards(
            EpochOrder(self.rows, key, epoch, shuffle=self.shuffle, draws=self.draws, **of), count
        )


@dataclass(frozen=True)
class MixedRows:
    """Rows of several sources, in sequence.

    Parameters
    ----------
    sources, rows : numpy.ndarray of int64
        The number of each row's source, and its place in the source's base order.
    epochs : numpy.ndarray of int64
        The epoch of the source in which it comes.
    points : numpy.ndarray of int64
        What drew it, each once in such an epoch; the row itself where none are drawn.
    """

    sources: np.ndarray
    rows: np.ndarray
    epochs: np.ndarray
    points: np.ndarray


@dataclass(frozen=True)
class MixedEpochOrder:
    """The order of one epoch of a mixture, from the position on at which its steps begin.

    Parameters
    ----------
    mixture : Mixture or StepMixture
        Which source comes when.
    sources : tuple of SourceOrder
        Their own orders.
    seed, epoch : int
        What the order depends on.
    steps : Steps
        The global steps of the epoch. Rows are shuffled within them.
    """

    mixture: Mixture | StepMixture
    sources: tuple[SourceOrder, ...]
    seed: int
    epoch: int
    steps: Steps
    _known: dict[tuple[int, int], Shards] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def rows_of(self, shares: list[Span]) -> MixedRows:
        """The rows that a rank takes at some steps, in sequence."""
        return self._found(self._drawn(shares))

    def rows_at(self, positions: np.ndarray) -> MixedRows:
        """The rows at some positions of the epoch, as they are before steps are shuffled."""
        rows, shards = np.divmod(np.asarray(positions, np.int64), self.mixture.shards)
        return self._found(self.drawn_at(shards, rows))

    def drawn_at(self, shards: np.ndarray, rows: np.ndarray) -> DrawnRows:
        """Some rows of shards, in that order, as if they were of one step."""
        every, one = np.arange(len(rows)), np.ones(len(rows), np.int64)
        stretches = self._stretches(WindowSlices(shards, rows, one))
        return DrawnRows(np.zeros(1, np.int64), np.array([len(rows)]), list(stretches), every)

    def _found(self, drawn: DrawnRows) -> MixedRows:
        found = np.empty((4, len(drawn.order)), np.int64)
        for some in drawn.stretches:
            plan = (shards := self._shards(some.source, some.epoch)).plan
            points = plan.points_at(shards.positions(*some.parts_and_indices()))
            for of_all, of_some in zip(
                found, (some.source, plan.drawn(points), some.epoch, points), strict=True
            ):
                of_all[some.here] = of_some
        return MixedRows(*(of_all[drawn.order] for of_all in found))

    def windows(
        self, lasting: Container[int] = (), left: OpenWindows | None = None
    ) -> WindowPlanner:
        """What says of rows in which windows they are read.

        Parameters
        ----------
        lasting : container of int
            The parts of sources whose windows go on in the next epoch.
        left : OpenWindows, optional
            Windows that the epoch before has left open.
        """
        in_memory = [source.in_memory for source in self.sources]
        whole_steps = isinstance(self.mixture, StepMixture)
        until = partial(self._until, lasting)
        return WindowPlanner(self._drawn, self._shards, until, in_memory, whole_steps, left)

    def parts_of(self, rank: int, epoch: int) -> set[int]:
        """The parts of sources that a rank reads in an epoch of the mixture."""
        shards, ranks = self.mixture.shards, self.steps.world_size
        own = slice(rank * shards // ranks, -(-(rank + 1) * shards // ranks))
        return set(self.mixture.parts_of(epoch)[own].tolist())

    def follows(self, before: MixedEpochOrder) -> bool:
        """Whether this epoch begins where another one ends."""
        begins = self.epoch == before.epoch + 1 and self.steps.start == 0
        return begins and (self.mixture, self.sources, self.seed) == (
            before.mixture,
            before.sources,
            before.seed,
        )

    # -- which rows ------------------------------------------------------------------------

    def _shards(self, source: int, epoch: int) -> Shards:
        found = self._known.get((source, epoch))
        if found is None:
            found = self.sources[source].shards(self.seed, epoch, self.mixture.shards)
            if len(self._known) > _KNOWN:
                self._known.clear()
            self._known[source, epoch] = found
        return found

    def _until(self, lasting: Container[int], source: int, epoch: int, part: int) -> int | None:
        if part in lasting:
            return None
        before = rows_before(self.sources[source].rows, self.mixture.shards, part, epoch)
        return int(self._given[part, source]) - before

    @cached_property
    def _given(self) -> np.ndarray:
        """How many rows each part has given of each source as this epoch ends."""
        return self.mixture.before(self.epoch + 1)

    def _drawn(self, spans: list[Span]) -> DrawnRows:
        """The rows of some shares of steps, as their shards have them, and their order."""
        steps, rows, order = self._places(np.array(spans, np.int64))
        return DrawnRows(steps, np.cumsum(rows.counts), list(self._stretches(rows)), order)

    def _stretches(self, rows: WindowSlices) -> Iterator[Stretch]:
        """The rows of each source in each of its epochs."""
        rows = rows.joined()
        sources = self.mixture.sources_of(self.epoch, rows)
        # Those of a source in a run follow each other in a part of it.
        groups, total = len(rows), len(self.sources)
        kind = np.int16 if groups * total < 1 << 15 else np.int64  # sorted by counting
        group = (sources * groups + np.arange(groups).repeat(rows.counts)).astype(kind)
        here = np.argsort(group, kind="stable")
        starts = np.flatnonzero(np.diff(group[here], prepend=-1))
        counts = np.diff(starts, append=len(here))
        firsts = here[starts]
        of, run = np.divmod(group[firsts].astype(np.int64), groups)
        before = np.cumsum(rows.counts) - rows.counts
        index = rows.begins[run] + firsts - before[run]
        _, parts, numbers = self.mixture.draws(self.epoch, rows.windows[run], index)
        for source in np.flatnonzero(np.bincount(of)).tolist():
            first, end = np.searchsorted(of, [source, source + 1])
            its = here[starts[first] : starts[end - 1] + counts[end - 1]]
            spans = (each[first:end] for each in (parts, numbers, counts))
            yield from self._epochs(source, its, *spans)

    def _epochs(
        self,
        source: int,
        here: np.ndarray,
        parts: np.ndarray,
        starts: np.ndarray,
        counts: np.ndarray,
    ) -> Iterator[Stretch]:
        """Spans of a source's parts, numbered through its epochs, divided where these end."""
        size, count = self.sources[source].rows, self.mixture.shards
        first, last = (epoch_at(size, count, parts, at) for at in (starts, starts + counts - 1))
        epoch = int(first[0])
        if (first == epoch).all() and (last == epoch).all():
            starts = starts - rows_before(size, count, parts, epoch)
            yield Stretch(source, epoch, here, WindowSlices(parts, starts, counts))
            return
        owners = np.arange(len(parts)).repeat(last - first + 1)
        epochs = runs(first, last - first + 1)
        parts, stops = parts[owners], (starts + counts)[owners]
        before, after = (rows_before(size, count, parts, each) for each in (epochs, epochs + 1))
        starts = np.maximum(starts[owners], before)
        counts = np.minimum(stops, after) - starts
        places = np.cumsum(counts) - counts
        # A part of fewer rows than shards has none in some epochs.
        for epoch in np.unique(epochs[counts > 0]).tolist():
            some = (epochs == epoch) & (counts > 0)
            at = here[runs(places[some], counts[some])]
            spans = WindowSlices(parts[some], (starts - before)[some], counts[some])
            yield Stretch(source, epoch, at, spans)

    def _places(self, spans: np.ndarray) -> tuple[np.ndarray, WindowSlices, np.ndarray]:
        """The parts of steps that some shares have: which of them each is of, and its rows.

        They are in order of shards, steps and rows, of which the shard is the window; the third is
        the order in which rows come.
        """
        count = self.mixture.shards
        size, origin = self.steps.global_batch, self.steps.start
        # What is left over joins the last step of some numbers of ranks, and is mixed by itself.
        share, starts, stops = divided(spans[:, 0] - origin, spans[:, 1] - origin, size)
        begins = starts // size * size + origin
        ends = np.minimum(begins + size, self.steps.rows)
        starts, stops = starts + origin, stops + origin
        shards = np.arange(count)
        firsts = -(-(begins[:, None] - shards) // count)
        sizes = -(-(ends[:, None] - shards) // count) - firsts
        places = begins[:, None] + np.cumsum(sizes, axis=1) - sizes
        low = np.clip(starts[:, None] - places, 0, sizes)
        high = np.clip(stops[:, None] - places, 0, sizes)
        # A shard's rows of several steps follow each other in its sources.
        shard, step = np.nonzero((high > low).T)
        in_part = sizes[step, shard]
        by_step = np.lexsort((shard, step))
        rows = WindowSlices(shard, firsts[step, shard], in_part)
        order = self._shuffled(begins[step], shard, rows.begins, in_part, by_step)
        share = share[step]
        low, high = low[step, shard], high[step, shard]
        if (low > 0).any() or (high < in_part).any():
            index = runs(np.zeros(len(step), np.int64), in_part[by_step])
            low, high = (each[by_step].repeat(in_part[by_step]) for each in (low, high))
            order = order[(index >= low) & (index < high)]
            taken = np.sort(order)
            part = np.arange(len(step)).repeat(in_part)[taken]
            share = share[part]
            rows = WindowSlices(shard[part], rows.indices()[taken], np.ones_like(taken))
            order = np.searchsorted(taken, order)
        return share, rows, order

    def _shuffled(
        self,
        begins: np.ndarray,
        shards: np.ndarray,
        firsts: np.ndarray,
        sizes: np.ndarray,
        by_step: np.ndarray,
    ) -> np.ndarray:
        """The order of rows within the parts of steps: by (seed, epoch, step, shard).

        Parts have rows from their first one on, as many as their sizes say, which are about the
        same, and come in the sequence of `by_step`.
        """
        key = derive_key(self.seed, self.epoch, _STEP)
        parts = hashed(begins << _SHARD_BITS | shards, key).view(np.int64)
        index = np.arange(sizes.max(initial=0))
        drawn = hashed(parts[:, None] ^ (firsts[:, None] + index), key)
        # A hash is followed by the index, so that there are no ties for a sort to decide, and no
        # indices to be sorted beside it. Both are 63 bits, which 8 million rows of a part fill.
        bits = len(index).bit_length()
        assert _HASH_BITS + bits < 64
        keys = (drawn >> np.uint64(64 - _HASH_BITS)).view(np.int64) << bits | index
        is_there = index < sizes[:, None]
        if not is_there.all():
            keys[~is_there] = _LAST
        keys.sort(axis=1)
        starts = np.cumsum(sizes) - sizes
        order = (keys & (1 << bits) - 1) + starts[:, None]
        return order[by_step][is_there[by_step]]
