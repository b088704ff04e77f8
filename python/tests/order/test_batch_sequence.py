# SPDX-License-Identifier: Apache-2.0
"""The sequence of batches: each document once, the same for all ranks and from any position."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.order.batch_sequence import BatchSequence
from lancedb.integrations._torch.order.batch_steps import BatchSteps
from lancedb.integrations._torch.order.epoch_order import EpochOrder
from lancedb.integrations._torch.order.layout import Layout
from lancedb.integrations._torch.order.mixed_order import MixedEpochOrder, SourceOrder
from lancedb.integrations._torch.order.mixed_shards import MixedShards
from lancedb.integrations._torch.order.mixture import Change, Mixture
from lancedb.integrations._torch.order.packing import PackingPlanner
from lancedb.integrations._torch.order.shards import Shards
from lancedb.integrations._torch.order.steps import Steps
from lancedb.integrations._torch.order.token_budget import BudgetPlanner

LONGEST = 40
_MAY_BE_SHORT = 8  # steps at the end, where fewer documents than ranks would be left


def shards_of(rows, count):
    """The rows in an order, in shards."""
    return Shards(EpochOrder(rows, seed=7, shuffle="global"), count)


def mixed_shards_of(rows, count):
    """As many rows of a mixture, in shards."""
    layout = Layout(1, 1, 1, 1)
    sources = tuple(SourceOrder(name, 50, "global", layout) for name in ("a", "b"))
    mixture = Mixture((50, 50), (Change(0, (3, 1)),), count, stop=max(1, rows))
    steps = Steps(rows, 256, 1, True)
    return MixedShards(MixedEpochOrder(mixture, sources, 7, 2, steps))


@st.composite
def sequences(draw, least=0):
    """What makes one sequence, several times if need be."""
    lengths = draw(st.lists(st.integers(1, LONGEST), min_size=least, max_size=300))
    lengths = np.array(lengths, np.int64)
    of = draw(st.sampled_from([shards_of, mixed_shards_of]))
    rows = of(len(lengths), draw(st.sampled_from([1, 2, 4, 8])))
    planner = draw(
        st.one_of(
            st.builds(BudgetPlanner, st.integers(LONGEST, 200), st.integers(1, 20)),
            st.builds(PackingPlanner, st.integers(10, 60), st.integers(1, 4), st.booleans()),
        )
    )
    group, key = draw(st.sampled_from([1, 5, 16, 64])), draw(st.sampled_from([None, 3]))
    return lengths, lambda: BatchSequence(rows, lengths.__getitem__, planner, group, key)


def described(sequence, first, last):
    """The rows of some documents, the unit of each, and the tokens that it has of its row."""
    pieces = sequence.pieces_of(np.array([[first, last]]))[0]
    units = sequence.unit_ids(pieces)
    rows = sequence.rows_at(np.arange(first, last))
    starts = [0] * len(rows)
    if isinstance(sequence.planner, PackingPlanner):
        of = [(sequence.window(p.window), slice(p.begin, p.begin + p.count)) for p in pieces]
        starts = [start for units_, here in of for start in units_.starts[here].tolist()]
    same = np.diff(units, prepend=units[:1]) != 0
    return list(zip(rows.tolist(), np.cumsum(same).tolist(), starts, strict=True))


def batches(sequence):
    end = sequence.end()
    number = end.batches + (end.units_left > 0)
    edges = [sequence.documents(batch) for batch in range(number + 1)]
    return [described(sequence, *span) for span in itertools.pairwise(edges)]


def taken(steps, position=0, most=None):
    """What a rank takes, step by step from a position on, and the position after the last one."""
    made = []
    while steps.has_step(position) and len(made) != most:
        made.append(described(steps.sequence, *steps.share(position)))
        position = steps.after(position)
    return made, position


# Long documents left over in several shards, and rows that are batches.
ALONE = (
    np.array([17, 40, 9, 5, 33, 40, 2, 8, 30]),
    lambda: BatchSequence(shards_of(9, 8), ALONE[0].__getitem__, PackingPlanner(24, 1, True), 5, 3),
)


@given(sequences())
@example(ALONE)
@settings(max_examples=60, deadline=None)
def test_each_document_comes_once_whole_or_in_pieces(drawn):
    lengths, make = drawn
    sequence, planner = make(), make().planner
    came = [(row, start) for batch in batches(sequence) for row, _, start in batch]
    splits = isinstance(planner, PackingPlanner) and planner.splits
    expected = [
        (row, start)
        for row, length in enumerate(lengths.tolist())
        for start in (range(0, length, planner.length) if splits else [0])
    ]
    assert sorted(came) == expected


@given(sequences())
@example(ALONE)
@settings(max_examples=60, deadline=None)
def test_batches_are_within_their_budget_or_have_full_rows(drawn):
    lengths, make = drawn
    sequence, planner = make(), make().planner
    made = batches(sequence)
    for batch in made:
        of_rows = np.array([lengths[row] for row, _, _ in batch])
        units = [unit for _, unit, _ in batch]
        if isinstance(planner, BudgetPlanner):
            assert of_rows.max() * len(batch) <= planner.tokens
            assert len(batch) <= planner.max_rows
        else:
            if batch is not made[-1]:
                assert len(set(units)) == planner.units_in_batch
            starts = np.array([start for _, _, start in batch])
            used = np.bincount(units, np.minimum(of_rows - starts, planner.length))
            assert (used <= planner.length).all()


@given(sequences(), st.data())
@settings(max_examples=40, deadline=None)
def test_a_sequence_is_the_same_from_wherever_it_is_looked_at(drawn, data):
    _, make = drawn
    whole = batches(make())
    edges = [make().documents(0)]
    planned = make()
    planned.end()
    edges = [planned.documents(batch) for batch in range(len(whole) + 1)]
    for number in data.draw(st.permutations(range(len(whole))))[:10]:
        assert described(planned, edges[number], edges[number + 1]) == whole[number]


@given(sequences(least=60), st.sampled_from([1, 2, 3, 4, 8]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_ranks_take_the_next_batches_of_the_one_sequence_in_equal_steps(drawn, ranks, drop_last):
    _, make = drawn
    whole = batches(make())
    try:
        made = [taken(BatchSteps(make(), rank, ranks, drop_last))[0] for rank in range(ranks)]
    except ValueError:
        assume(False)
    lengths = {len(each) for each in made}
    assert len(lengths) == 1
    assert lengths == {BatchSteps(make(), 0, ranks, drop_last).all_steps()}
    for step, of_ranks in enumerate(zip(*made, strict=True)):
        assert all(of_ranks)
        if step < lengths.copy().pop() - _MAY_BE_SHORT:
            assert list(of_ranks) == whole[step * ranks : (step + 1) * ranks]
    came = sum(len(batch) for each in made for batch in each)
    every = sum(map(len, whole))
    if not drop_last:
        assert came == every
    else:
        assert every - came <= sum(map(len, whole[-ranks:]))


@given(st.integers(0, 1_000_000), st.integers(200, 400), st.integers(2, 16))
@example(3, 203, 3)
@settings(max_examples=40, deadline=None)
def test_documents_that_are_left_of_a_budget_go_around_all_ranks(seed, number, ranks):
    lengths = np.random.default_rng(seed).integers(1, 21, number)
    planner = BudgetPlanner(tokens=60, max_rows=4)
    sequence = BatchSequence(shards_of(number, 8), lengths.__getitem__, planner, 16, 3)
    of_ranks = [BatchSteps(sequence, rank, ranks, drop_last=False) for rank in range(ranks)]
    position, shares = 0, []
    while of_ranks[0].has_step(position):
        assert of_ranks[0].steps_before(position) == len(shares)
        shares.append([steps.share(position) for steps in of_ranks])
        [position] = {steps.after(position) for steps in of_ranks}
    assert len(shares) == of_ranks[0].all_steps()
    edges = [begin for step in shares for begin, _ in step] + [number]
    assert [end for step in shares for _, end in step] == edges[1:]
    for begin, end in itertools.pairwise(edges):
        of_batch = lengths[sequence.rows_at(np.arange(begin, end))]
        assert 0 < len(of_batch) <= planner.max_rows
        assert of_batch.max() * len(of_batch) <= planner.tokens


@given(sequences(least=60), st.data())
@settings(max_examples=40, deadline=None)
def test_other_ranks_go_on_from_any_position(drawn, data):
    _, make = drawn
    whole = batches(make())
    before, after = (data.draw(st.sampled_from([1, 2, 4, 8])) for _ in range(2))
    most = data.draw(st.integers(0, len(whole) // before))
    parts = [taken(BatchSteps(make(), rank, before, True), 0, most) for rank in range(before)]
    position = parts[0][1]
    assert {each for _, each in parts} == {position}
    rest = [taken(BatchSteps(make(), rank, after, True), position)[0] for rank in range(after)]
    came = [b for step in zip(*(p for p, _ in parts), strict=True) for b in step]
    came += [b for step in zip(*rest, strict=True) for b in step]
    assert came == whole[: len(came)]
    assert len(whole) - len(came) <= after


@given(sequences())
@settings(max_examples=30, deadline=None)
def test_ranks_whose_number_divides_the_shards_read_shards_of_their_own(drawn):
    _, make = drawn
    sequence = make()
    ranks = sequence.lanes
    in_turn = BatchSteps(sequence, 0, ranks, True).all_steps()
    for rank in range(ranks):
        steps, position = BatchSteps(sequence, rank, ranks, True), 0
        for _ in range(in_turn - 2 * ranks):  # what is left over comes in another order
            pieces, _ = sequence.pieces_of(np.array([steps.share(position)]))
            assert set((pieces.windows % ranks).tolist()) == {rank}
            position = steps.after(position)


def test_what_is_left_of_fewer_rows_than_shards_is_one_batch_for_all_ranks():
    lengths = np.full(5, 10)
    sequence = BatchSequence(shards_of(5, 8), lengths.__getitem__, BudgetPlanner(99, 99), 4, None)
    assert sequence.end().batches == 1
    shares = [BatchSteps(sequence, rank, 2, drop_last=False).share(0) for rank in range(2)]
    assert shares == [(0, 2), (2, 5)]


def test_too_few_documents_for_the_last_step_are_an_error_where_none_may_be_left_out():
    rows = shards_of(9, 8)
    sequence = BatchSequence(rows, np.full(9, 10).__getitem__, BudgetPlanner(10, 1), 4, None)
    steps = BatchSteps(sequence, 0, 8, drop_last=False)
    assert steps.after(0) == 8
    with pytest.raises(ValueError, match=r"1 documents from batch 8 on .* 8 ranks.*drop_last=True"):
        steps.share(8)
    with pytest.raises(ValueError, match="1 documents from batch 8 on"):
        steps.all_steps()


def test_the_first_batch_is_found_without_planning_the_epoch():
    asked = []
    rows = shards_of(100_000, 8)

    def lengths_of(some):
        asked.append(len(some))
        return np.full(len(some), 10)

    sequence = BatchSequence(rows, lengths_of, BudgetPlanner(100, 100), 256, 0)
    assert BatchSteps(sequence, 0, 1, True).share(0) == (0, sequence.documents(1))
    assert sum(asked) == 8 * 256


@pytest.mark.parametrize("planner", [BudgetPlanner(40, 8), PackingPlanner(40, 1, True)])
def test_fewer_documents_than_ranks_are_refused_where_steps_are_counted(planner):
    lengths = np.array([3, 4])
    sequence = BatchSequence(shards_of(2, 8), lengths.__getitem__, planner, 5, 3)
    with pytest.raises(ValueError, match="at most 2 ranks, or drop_last=True"):
        BatchSteps(sequence, 0, 3, drop_last=False).all_steps()
    assert BatchSteps(sequence, 0, 3, drop_last=False).known_steps() == 1
    assert BatchSteps(sequence, 0, 3, drop_last=True).all_steps() == 0
    assert BatchSteps(sequence, 0, 2, drop_last=False).all_steps() == 1


def counted(rows, group_rows):
    """A sequence, and how many documents it has asked the lengths of, one number for each group."""
    asked = []

    def lengths_of(some):
        asked.append(len(some))
        return np.full(len(some), 10)

    planner = BudgetPlanner(100, 100)
    return BatchSequence(shards_of(rows, 8), lengths_of, planner, group_rows, 3), asked


def test_small_rounds_are_planned_once_by_one_who_makes_batches_far_behind_one_who_reads():
    sequence, asked = counted(6000, 50)
    ahead, batches = 200, sequence.end().batches
    for batch in range(batches):
        read, made = min(batch + ahead, batches - 1), max(0, batch - ahead)
        for at in (read, made):
            sequence.rows_at(np.arange(sequence.documents(at), sequence.documents(at + 1)))
    assert sum(asked) == 6000


def test_rounds_of_many_documents_are_not_all_held():
    sequence, asked = counted(200_000, 5000)
    sequence.end()
    assert sum(asked) == 200_000
    sequence.rows_at(np.arange(sequence.documents(1)))
    assert sum(asked) == 240_000
