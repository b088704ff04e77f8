# SPDX-License-Identifier: Apache-2.0
"""The place of one reader of epochs: where its iteration stands, and where the next one begins.

A dataset has a cursor for whoever iterates the dataset itself, and each `LanceDataLoader` one of
its own, by which its dataset is iterated, here and in workers. A place is an epoch, a position in
it, and, where the last batch delivered was the last one of an epoch, the number of that epoch: it
has *ended*. Calls change the place as follows, where ``e:p`` is position p of epoch e, and 20 is
the end of every epoch.

=============================  =============  ==========  ==================  ==========
call                           state before   next        state after         next
=============================  =============  ==========  ==================  ==========
(made)                                                    0:0                 0:0
begin                          0:0            0:0         0:0                 1:0
batches up to 8                0:0            1:0         0:8                 1:0
begin, after a break           0:8            1:0         1:0                 2:0
batches up to the last one     0:8            1:0         1:0, ended 0        1:0
begin, after the end           1:0, ended 0   1:0         1:0, ended 0        2:0
the first batch of it          1:0, ended 0   2:0         1:4                 2:0
set_epoch(5)                   0:8            1:0         0:8                 5:0
batches up to the last one     0:8            5:0         5:0                 5:0
set_epoch(0), same process     1:0, ended 0   1:0         0:0                 0:0
load 0:8                       any            any         0:8                 0:8
load 0:8 twice                 any            any         0:8                 0:8
load 0:8, set_epoch(0)         any            any         0:8                 0:8
load 0:8, set_epoch(1)         any            any         1:0                 1:0
load 1:0, ended 0              any            any         1:0, ended 0        1:0
... set_epoch(0)               1:0, ended 0   1:0         1:0, ended 0        none, 1:0
... set_epoch(0) once more     1:0, ended 0   none, 1:0   1:0, ended 0        none, 1:0
... begin: no batch comes      1:0, ended 0   none, 1:0   1:0, ended 0        1:0
... set_epoch(0) after that    1:0, ended 0   1:0         0:0                 0:0
load 1:0, ended 0; set 1       any            any         1:0, ended 0        1:0
load 1:0, of an older release  any            any         1:0                 1:0
... set_epoch(0)               1:0            1:0         0:0                 0:0
=============================  =============  ==========  ==================  ==========

A state that is loaded *late*, as it waited until its loader began, was there before the epoch
that was named last: ``set_epoch(0), load late`` is ``load, set_epoch(0)``. So an epoch that a
loaded state says has ended is not repeated when it is named, once; and whoever names an epoch
that ended in this very process has it again. ``set_epoch`` leaves a state alone that an iteration
under way has reached: it says where the next one begins.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from ..order.state import Position, make_state
from ..workers.shared_epoch import SharedEpoch
from .step_orders import StepOrder


class EpochTracker:
    """One iteration of an epoch: to come, under way, or over.

    Parameters
    ----------
    at : Position
        Where it begins.
    order : StepOrder
        Of its epoch.
    is_loaded : bool
        Whether it begins where a state was taken.
    restored : int
        How many states its cursor had loaded before.
    """

    def __init__(self, at: Position, order: StepOrder, is_loaded: bool = False, restored: int = 0):
        self.at = at
        self.order = order
        self.is_loaded = is_loaded
        self.restored = restored
        self.position = at.position
        self.taken = 0
        self.is_over = False  # no batch comes any more
        self.is_superseded = False  # whoever goes on with it begins elsewhere

    @property
    def is_to_come(self) -> bool:
        """Whether nothing was taken yet, so that its epoch is not used up."""
        return self.taken == 0 and not self.is_over

    @property
    def is_under_way(self) -> bool:
        """Whether batches were taken, and more may be."""
        return self.taken > 0 and not self.is_over

    def has_more(self) -> bool:
        """Whether the epoch has one more step."""
        return self.order.has_step(self.position)

    def advance(self) -> None:
        """Count the next step as delivered."""
        self.position = self.order.after(self.position)
        self.taken += 1

    def shares(self, worker: int, workers: int) -> Iterator[tuple[int, tuple[int, int]]]:
        """The steps that one of several workers is to make yet, by number, and their shares.

        The loader asks its workers in sequence. `taken` counts this worker's own steps alone.
        """
        position, made = self.at.position, self.taken
        for step in itertools.count():
            if not self.order.has_step(position):
                return
            if step % workers == worker and step // workers >= made:
                yield step, self.order.share(position)
            position = self.order.after(position)

    def finish(self) -> None:
        """Note that no batch comes any more: it is at its end, has failed, or was left."""
        self.is_over = True

    @property
    def place(self) -> Position:
        """After the last step that was delivered."""
        if self.is_to_come:
            return self.at.settled()
        if not self.has_more():
            return self.at.end().settled()
        return Position(self.at.epoch, self.position) if self.taken else self.at


class EpochCursor:
    """Where an epoch stands: see the table above.

    Parameters
    ----------
    shared : SharedEpoch, optional
        Where worker processes find each place at which iterations are to begin.

    Attributes
    ----------
    next : Position
        Where the next iteration begins.
    under_way : EpochTracker or None
        The iteration that was begun last; None if a place was named or loaded since.
    layout : object
        That of the state that was loaded last, which the order goes on with; None for its own.
    generation : int
        How often a place was named or loaded.
    is_named : bool
        Whether nothing has begun since a place was named or loaded.
    """

    def __init__(self, shared: SharedEpoch | None = None):
        self.next = Position()
        self.under_way: EpochTracker | None = None
        self.layout: Any = None
        self.generation = 0
        self.is_named = False
        self._is_loaded = False
        self._restored = 0  # states
        self._shared = shared

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "under_way": None}

    @property
    def begins(self) -> Position:
        """Where the next iteration begins, if one of which nothing was taken is begun again."""
        return self._to_come()[0]

    @property
    def place(self) -> Position:
        """Where a state that is taken now stands."""
        tracker = self.under_way
        if tracker is None or (self.is_named and tracker.taken and not tracker.has_more()):
            return self.next.settled()
        return tracker.place

    def seek(self, epoch: int) -> None:
        """Let the next iteration be this epoch, from its beginning.

        It goes on in the middle of the epoch where a state of there was loaded just before, and
        has no batch where that state says that the epoch has ended.
        """
        at, is_loaded = self._to_come()
        self.generation += 1
        if epoch == self.ended:
            at = Position(epoch).end()
        elif at.epoch != epoch or not is_loaded:
            at, is_loaded = Position(epoch), False
        self._go_to(at, is_loaded)

    def restore(self, at: Position, layout: Any, order: StepOrder, late: bool = False) -> None:
        """Let the next iteration go on at the place of a state, in its layout."""
        self.generation += 1
        self._restored += 1
        self.layout = layout
        if at.position and not order.of(at.epoch, layout).has_step(at.position):
            at = at.end().settled()
        is_named = late and self.is_named and not self._is_loaded
        if is_named and self.next == (at.ended, 0, None):
            at = self.next.end()
        self._drop()
        self._go_to(at, is_loaded=True)

    def follow(self, other: EpochCursor) -> None:
        """Let the next iteration begin where that of another cursor does."""
        self.layout = other.layout
        self._drop()
        self._go_to(*other._to_come())

    def copy(self) -> EpochCursor:
        """Another one that begins where this one does."""
        other = EpochCursor()
        other.go_back(self)
        return other

    def go_back(self, before: EpochCursor) -> None:
        """Begin where a copy does that was made of this one before."""
        self.follow(before)
        self.is_named = before.is_named

    def join(self, at: Position, layout: Any) -> None:
        """Let the next iteration begin where other processes are to begin, too."""
        self.next, self.layout = at, layout

    def resume(self) -> None:
        """Let the next iteration go on where the epoch stands, in place of the next epoch."""
        at = self.begins
        if at != at.settled() or (self.under_way is not None and not self.under_way.is_to_come):
            at = self.place
            self._drop()
            self._go_to(at, is_loaded=True)

    def leave_off(self, again: bool = False) -> None:
        """Let the epoch of a loaded state be over: the next one follows, or the same one again."""
        at, is_loaded = self._to_come()
        ended = self.ended
        if is_loaded and (at.position or (again and ended is not None)):
            self.generation += 1
            epoch = at.epoch if ended is None else ended
            self._go_to(Position(epoch if again else epoch + 1), is_loaded=False)

    def lapse(self) -> None:
        """Note that others have begun where a state was loaded, which nobody begins at again."""
        self._is_loaded = False

    def take_back(self) -> None:
        """Have an iteration of which nothing was taken use up no epoch."""
        if self.under_way is not None and self.under_way.is_to_come:
            self.next, self._is_loaded = self._to_come()
            self._drop()

    def begin(self, order: StepOrder) -> EpochTracker:
        """An iteration from the next place on."""
        reached = self.place
        follows = (reached.epoch, reached.position) == (self.next.epoch, self.next.position)
        at = reached if follows else self.next
        order = order.of(at.epoch, self.layout)
        tracker = EpochTracker(at, order, self._is_loaded, self._restored)
        self.next = Position(tracker.at.epoch + 1)
        self.under_way = tracker
        self.is_named = self._is_loaded = False
        return tracker

    def deliver(self, tracker: EpochTracker) -> None:
        """Count a step of one of several iterations: the cursor stands where the last delivery was.

        One that was begun before a state was loaded moves nothing.
        """
        tracker.advance()
        if tracker.restored == self._restored:
            self.under_way = tracker

    @property
    def ended(self) -> int | None:
        """The epoch that a loaded state, which nothing was taken from, says is over."""
        at, is_loaded = self._to_come()
        return at.ended if is_loaded else None

    @property
    def is_inside(self) -> bool:
        """Whether the next iteration goes on in an epoch, at the place of a loaded state."""
        at, is_loaded = self._to_come()
        return is_loaded and at.settled().position > 0

    def state(self, order: StepOrder) -> dict[str, Any]:
        """The state of the place that was reached, JSON-serialisable."""
        return make_state(self.place, order.describe(self.layout))

    def _to_come(self) -> tuple[Position, bool]:
        tracker = self.under_way
        if tracker is not None and tracker.is_to_come:
            return tracker.at, tracker.is_loaded
        return self.next, self._is_loaded

    def _go_to(self, at: Position, is_loaded: bool) -> None:
        self.next, self._is_loaded = at, is_loaded
        self.is_named = True
        if self.under_way is not None and not self.under_way.is_under_way:
            self._drop()
        if self._shared is not None:
            self._shared.set(at, self.layout)

    def _drop(self) -> None:
        if self.under_way is not None:
            self.under_way.is_superseded = True
            self.under_way = None
