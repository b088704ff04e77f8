# SPDX-License-Identifier: Apache-2.0
"""Where an epoch stands after any calls in any order; without tables, loaders and processes."""

import json
import re

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from lancedb.integrations._torch.datasets import cursor as module
from lancedb.integrations._torch.datasets.cursor import EpochCursor
from lancedb.integrations._torch.datasets.step_orders import RankOrder
from lancedb.integrations._torch.order.state import Position, make_state, read_state
from lancedb.integrations._torch.order.steps import Steps

END = 20
PLAN = {"rows": END, "block_rows": 1, "window_rows": 1, "lanes": 1, "chunk": 1}
ORDER = RankOrder(Steps(END, 2, 2, drop_last=True), 0, lambda layout: PLAN)


def run(cursor, steps=None):
    """Take batches of the next epoch, as a loader does; how many there were."""
    cursor.take_back()
    tracker = cursor.begin(ORDER)
    while tracker.has_more() and tracker.taken != steps:
        tracker.advance()
    tracker.finish()
    return tracker


def loaded(place, cursor=None):
    cursor = cursor or EpochCursor()
    state = json.loads(json.dumps(make_state(place, PLAN)))
    cursor.restore(read_state(state, PLAN)[0], None, ORDER)
    return cursor


ENDED = Position(1, 0, ended=0)


def delivered(tracker):
    return tracker.at.epoch, tracker.at.position, tracker.taken


@pytest.mark.parametrize("named", [[0], [0, 0]])
def test_an_epoch_that_has_ended_is_not_repeated_where_it_is_named(named):
    cursor = loaded(ENDED)
    for epoch in named:
        cursor.seek(epoch)
        assert cursor.place == ENDED
    assert run(cursor).taken == 0
    assert cursor.place == ENDED
    assert delivered(run(cursor)) == (1, 0, 5)


def test_whoever_names_none_or_the_next_one_gets_the_next_one():
    assert delivered(run(loaded(ENDED))) == (1, 0, 5)
    cursor = loaded(ENDED)
    cursor.seek(1)
    assert delivered(run(cursor)) == (1, 0, 5)


def test_a_second_request_for_an_ended_epoch_is_heeded():
    cursor = loaded(ENDED)
    for expected in (0, 5, 5):
        cursor.seek(0)
        assert run(cursor).taken == expected


def test_an_epoch_that_ended_in_this_process_is_repeated():
    cursor = EpochCursor()
    for _ in range(2):
        cursor.seek(0)
        assert delivered(run(cursor)) == (0, 0, 5)
        assert cursor.place == ENDED


def test_a_state_of_an_older_release_begins_the_epoch_that_is_named():
    cursor = loaded(Position(1))
    cursor.seek(0)
    assert delivered(run(cursor)) == (0, 0, 5)


def test_a_state_at_the_end_of_an_epoch_by_other_steps_is_the_next_one():
    cursor = loaded(Position(3, 18))
    assert cursor.place == Position(4, 0, ended=3)
    assert delivered(run(cursor)) == (4, 0, 5)


@pytest.mark.parametrize("ended", [-1, "0", 1.0])
def test_an_end_that_cannot_be_is_a_damaged_state(ended):
    with pytest.raises(ValueError, match="ended must be a whole number"):
        loaded(Position(1, 0, ended))


def test_an_end_in_a_state_that_was_changed_by_hand_counts_no_more():
    assert loaded(Position(1, 4, ended=2)).place == Position(1, 4)
    assert loaded(Position(1, 0, ended=2)).place == Position(1)


# -- the table in the docstring --------------------------------------------------------------------


def rows_of_table():
    lines = module.__doc__.splitlines()
    bounds = [
        match.span() for match in re.finditer("=+", next(line for line in lines if "====" in line))
    ]
    marks = [number for number, line in enumerate(lines) if line.startswith("====")]
    for line in lines[marks[1] + 1 : marks[2]]:
        yield [line[begin:end].strip() for begin, end in bounds]


def text_of(place):
    ended = "" if place.ended is None else f", ended {place.ended}"
    return f"{place.epoch}:{place.position}{ended}"


def next_of(cursor):
    at = cursor.next
    return text_of(at).partition(",")[0] if at == at.settled() else f"none, {at.epoch + 1}:0"


def test_the_table_is_what_happens():
    state, upcoming = None, None
    cursor = EpochCursor()
    for call, before, next_before, after, next_after in rows_of_table():
        if before not in ("any", "") and (before, next_before) != (state, upcoming):
            # Another branch: it is reached from the start by what is known to lead there.
            cursor = reached(before, next_before)
        cursor = apply(call, cursor)
        state, upcoming = text_of(cursor.place), next_of(cursor)
        assert (state, upcoming) == (after, next_after), call


def reached(state, upcoming):
    cursor = EpochCursor()
    if state == "0:0":
        return cursor
    cursor.live = cursor.begin(ORDER)
    for _ in range(2 if state == "0:8" else 5):
        cursor.live.advance()
    if state.endswith("ended 0") and upcoming == "2:0":
        cursor.live.finish()
        cursor.live = cursor.begin(ORDER)
    return cursor


def apply(call, cursor):
    if call == "(made)":
        return EpochCursor()
    if call.startswith(("begin", "... begin")):
        if cursor.under_way is not None:
            cursor.under_way.finish()
        cursor.live = cursor.begin(ORDER)
        if "no batch" in call:
            assert not cursor.live.has_more()
            cursor.live.finish()
    elif call.startswith(("batches up", "the first batch")):
        cursor.live.advance()
        while cursor.live.has_more() and cursor.live.position != 8 and "first" not in call:
            cursor.live.advance()
    elif call.startswith("load"):
        places = {"0:8": Position(0, 8), "1:0, ended 0": ENDED, "1:0, of": Position(1)}
        place = next(each for text, each in places.items() if call[5:].startswith(text))
        for _ in range(2 if "twice" in call else 1):
            cursor = loaded(place, cursor)
        for epoch in re.findall(r"set_epoch\((\d)\)|; set (\d)", call):
            cursor.seek(int("".join(epoch)))
    else:
        if "same process" in call:
            cursor.under_way.finish()
        cursor.seek(int(re.search(r"set_epoch\((\d)\)", call)[1]))
    return cursor


# -- any calls in any order ------------------------------------------------------------------------


class Epochs(RuleBasedStateMachine):
    """Loops, breaks, kills: every (epoch, step) is delivered as whoever calls expects."""

    def __init__(self):
        super().__init__()
        self.cursor = EpochCursor()
        self.iterator = None
        self.stands, self.upcoming = (0, 0), (0, 0)  # epoch and step
        self.over = None  # the epoch that a loaded state says has ended
        self.is_named = False  # where to go on, since an iteration began

    @property
    def begins(self):
        """Where the next iteration does, as a state says it."""
        epoch, step = self.upcoming
        return (epoch + 1, 0) if step == 5 else (epoch, step)

    @rule()
    def iterate(self):
        if self.iterator is not None and self.iterator.is_under_way:
            self.iterator.finish()  # dropped
        self.cursor.take_back()
        self.iterator = self.cursor.begin(ORDER)
        self.stands, self.is_named = self.begins, False
        assert self.iterator.at.settled().epoch == self.stands[0]

    @precondition(lambda self: self.iterator is not None)
    @rule()
    def take(self):
        tracker = self.iterator
        if tracker.is_superseded or tracker.is_over:
            return
        if tracker.is_to_come:
            epoch, step = self.upcoming
            self.upcoming, self.over = (epoch + 1, 0), None
            assert tracker.at[:2] == (Position(epoch).end() if step == 5 else (epoch, 4 * step))[:2]
        else:
            epoch, step = tracker.at.epoch, tracker.position // 4
        if step == 5:
            assert not tracker.has_more()
            tracker.finish()
            self.stands = self.begins if self.is_named else (epoch + 1, 0)
            return
        tracker.advance()
        assert tracker.position == 4 * (step + 1)
        at_end = self.begins if self.is_named else (epoch + 1, 0)
        self.stands = (epoch, step + 1) if step < 4 else at_end

    @rule(epoch=st.integers(0, 3))
    def name(self, epoch):
        under_way = self.iterator is not None and self.iterator.is_under_way
        under_way &= self.cursor.under_way is self.iterator
        to = self.upcoming
        if self.over == epoch:
            to = (epoch, 5)
        elif to[0] != epoch or to[1] == 0:
            to = (epoch, 0)
            self.over = self.over if self.upcoming == to else None
        elif to[1] == 5:
            to = (epoch, 0)
        self.cursor.seek(epoch)
        self.upcoming, self.is_named = to, True
        if not under_way or not self.iterator.has_more():
            self.stands = self.begins

    @rule()
    def be_killed_and_resume(self):
        state = json.loads(json.dumps(self.cursor.state(ORDER)))
        self.cursor, self.iterator = EpochCursor(), None
        self.cursor.restore(read_state(state, PLAN)[0], None, ORDER)
        self.upcoming = self.stands
        self.over = state.get("ended")

    @invariant()
    def the_state_is_where_it_stands(self):
        place = self.cursor.place
        assert (place.epoch, place.position) == (self.stands[0], 4 * self.stands[1])
        assert place.ended in (None, place.epoch - 1)


Epochs.TestCase.settings = settings(max_examples=200, stateful_step_count=20, deadline=None)
TestEpochs = Epochs.TestCase
