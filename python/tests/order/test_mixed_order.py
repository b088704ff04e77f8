# SPDX-License-Identifier: Apache-2.0
"""The steps of a mixture: the same rows for any ranks and workers, read in windows."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.order.layout import Layout
from lancedb.integrations._torch.order.mixed_order import MixedEpochOrder, SourceOrder
from lancedb.integrations._torch.order.mixture import Change, Mixture
from lancedb.integrations._torch.order.read_schedule import schedule
from lancedb.integrations._torch.order.step_mixture import StepMixture
from lancedb.integrations._torch.order.steps import Steps


@st.composite
def source_orders(draw, number, shards):
    block, shuffle = draw(st.integers(1, 6)), draw(st.sampled_from(["block", "global", "none"]))
    layout = Layout(
        block,
        block * draw(st.integers(1, 6)),
        shards * draw(st.integers(1, 2)),
        draw(st.integers(1, 5)),
    )
    if shuffle != "block":
        layout = Layout(1, 1, 1, layout.chunk)
    rows = draw(st.integers(1, 300))
    return SourceOrder(f"s{number}", rows, shuffle, layout, draw(st.booleans()))


@st.composite
def mixed(draw):
    shards, count = draw(st.sampled_from([1, 2, 4])), draw(st.integers(1, 3))
    sources = tuple(draw(source_orders(number, shards)) for number in range(count))
    weights = st.tuples(*[st.integers(0, 9)] * count).filter(any)
    changes = [Change(0, draw(weights)), Change(draw(st.integers(1, 300)), draw(weights))]
    sizes = tuple(source.rows for source in sources)
    stop = draw(st.integers(50, 300))
    return Mixture(sizes, tuple(changes), shards, stop), sources


def plan_of(mixture, sources, epoch, batch, ranks=1, drop_last=True, start=0):
    steps = Steps(mixture.rows_of(epoch), batch, ranks, drop_last, start)
    return MixedEpochOrder(mixture, sources, 5, epoch, steps)


def pairs(rows):
    return list(zip(rows.sources.tolist(), rows.rows.tolist(), strict=True))


def all_shares(plan):
    """The rows of each step, as its ranks take them one after the other."""
    steps = plan.steps
    shares = [
        steps.slice_of(step, rank)
        for step in range(steps.num_steps)
        for rank in range(steps.world_size)
    ]
    return cut(plan, shares)


def cut(plan, shares):
    if not shares:
        return []
    rows = pairs(plan.rows_of(shares))
    ends = np.cumsum([stop - start for start, stop in shares]).tolist()
    return [rows[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def read_back(planner, shares, read_rows, opened=None):
    """The rows of some shares as the windows of a schedule deliver them.

    Those that are open, and how many of their rows were delivered, are given and left in `opened`.
    """
    opened, made = {} if opened is None else opened, []
    for group in schedule(planner, shares, read_rows):
        for read in group.reads:
            assert len({window.source for window in read}) == 1
            for window in read:
                assert window.window not in opened
                opened[window.window] = (window.source, window.rows.tolist(), [])
        begin, pieces = 0, list(group.pieces)
        for step in group.steps:
            rows = []
            for window, at, count in pieces[begin : begin + step.pieces]:
                source, known, delivered = opened[window]
                rows += [(source, row) for row in known[at : at + count]]
                delivered.append(at)
            assert len(rows) == step.rows
            made.append(rows)
            begin += step.pieces
            for window in step.spent:
                *_, delivered = opened.pop(window)
                assert min(delivered) == 0  # no row is read that was delivered before
    return made


@given(mixed(), st.integers(0, 6), st.integers(1, 12), st.booleans())
@settings(max_examples=30, deadline=None)
def test_steps_hold_the_same_rows_on_any_number_of_ranks(of, epoch, batch, drop_last):
    mixture, sources = of
    alone = plan_of(mixture, sources, epoch, 12 * batch, 1, drop_last)
    expected = [row for share in all_shares(alone) for row in share]
    for ranks in (2, 3, 4):
        if not drop_last and 0 < mixture.rows_of(epoch) < ranks:
            continue
        plan = plan_of(mixture, sources, epoch, 12 * batch // ranks, ranks, drop_last)
        assert [row for share in all_shares(plan) for row in share] == expected


@given(mixed(), st.integers(0, 6), st.integers(6, 60), st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_schedules_of_ranks_and_workers_hand_out_their_rows(of, epoch, batch, ranks, workers):
    plan = plan_of(*of, epoch, batch, ranks, drop_last=False)
    for rank in range(ranks):
        for worker in range(workers):
            steps = range(worker, plan.steps.num_steps, workers)
            shares = [plan.steps.slice_of(step, rank) for step in steps]
            expected = cut(plan, shares)
            assert read_back(plan.windows(), shares, read_rows=50) == expected


@given(mixed(), st.integers(6, 60), st.integers(1, 3), st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_windows_that_are_open_as_an_epoch_ends_go_on_in_the_next(of, batch, ranks, workers):
    for rank in range(ranks):
        for worker in range(workers):
            opened, windows, before = {}, None, None
            for epoch in range(4):
                plan = plan_of(*of, epoch, batch, ranks, drop_last=False)
                assert before is None or plan.follows(before)
                planner = plan.windows(plan.parts_of(rank, epoch + 1), windows)
                steps = range(worker, plan.steps.num_steps, workers)
                shares = [plan.steps.slice_of(step, rank) for step in steps]
                assert read_back(planner, shares, 50, opened) == cut(plan, shares)
                windows, before = planner.windows, plan
                opened = {number: opened[number] for number in windows}


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_source_of_fewer_rows_than_shards_has_parts_without_rows(in_memory):
    sources = (
        SourceOrder("few", 7, "block", Layout(1, 7, 1, 1), in_memory),
        SourceOrder("many", 900, "block", Layout(2, 8, 8, 1)),
    )
    plan = plan_of(Mixture((7, 900), (Change(0, (1, 1)),), 8, 600), sources, 1, 3, ranks=8)
    for rank in range(8):
        shares = [plan.steps.slice_of(step, rank) for step in range(plan.steps.num_steps)]
        assert read_back(plan.windows(), shares, 50) == cut(plan, shares)


def test_only_the_epoch_that_comes_next_follows():
    mixture = Mixture((60, 40), (Change(0, (3, 1)),), 2)
    sources = tuple(
        SourceOrder(name, rows, "block", Layout(2, 8, 2, 1))
        for name, rows in (("a", 60), ("b", 40))
    )
    first, second = (plan_of(mixture, sources, epoch, 10) for epoch in (0, 1))
    assert second.follows(first)
    assert not first.follows(first)
    assert not first.follows(second)
    assert not plan_of(mixture, sources, 1, 10, start=10).follows(first)
    assert not plan_of(mixture, sources[::-1], 1, 10).follows(first)
    heavier = Mixture((60, 40), (Change(0, (4, 1)),), 2)
    assert not plan_of(heavier, sources, 1, 10).follows(first)


def test_windows_are_read_from_the_row_on_that_is_resumed_at():
    sources = (SourceOrder("a", 960, "block", Layout(4, 240, 2, 1)),)
    mixture = Mixture((960,), (Change(0, (1,)),), 2)
    read = []
    for start in (0, 120, 480):
        plan = plan_of(mixture, sources, 0, 24, start=start)
        shares = [plan.steps.slice_of(step, 0) for step in range(plan.steps.num_steps)]
        groups = schedule(plan.windows(), shares, 64)
        read.append(sum(each.size for group in groups for some in group.reads for each in some))
    assert read == [960, 840, 480]


@given(mixed(), st.integers(10, 40))
@settings(max_examples=30, deadline=None)
def test_resumed_steps_are_those_of_the_whole_epoch(of, batch):
    whole = plan_of(*of, 1, batch)
    expected = all_shares(whole)
    for step in range(whole.steps.num_steps):
        rest = plan_of(*of, 1, batch, start=step * batch)
        assert all_shares(rest) == expected[step:]


@given(mixed())
@settings(max_examples=25, deadline=None)
def test_sources_are_whole_before_they_repeat(of):
    mixture, sources = of
    count = [Counter() for _ in sources]
    for epoch in range(4):
        plan = plan_of(mixture, sources, epoch, 1)
        for share in all_shares(plan):
            for source, row in share:
                count[source][row] += 1
    for number, source in enumerate(sources):
        came = [count[number][row] for row in range(source.rows)]
        if mixture.shards == 1:
            assert max(came) - min(came) <= 1


def test_a_source_plays_alike_whatever_stands_beside_it():
    source = SourceOrder("a", 1000, "block", Layout(4, 32, 8, 2))
    firsts = []
    for other in ("b", "z"):
        sources = (source, SourceOrder(other, 1000, "global", Layout(1, 1, 1, 1)))
        mixture = Mixture((1000, 1000), (Change(0, (1, 1)),), 8)
        shares = all_shares(plan_of(mixture, sources, 0, 64))
        firsts.append([row for share in shares for row in share if row[0] == 0])
    assert firsts[0] == firsts[1]


def test_a_part_of_a_step_is_mixed():
    sources = tuple(SourceOrder(n, 10_000, "global", Layout(1, 1, 1, 1)) for n in "ab")
    mixture = Mixture((10_000, 10_000), (Change(0, (1, 1)),), 1)
    plan = plan_of(mixture, sources, 0, 1000)
    of_sources = plan.rows_of([(0, 1000)]).sources
    changes = np.count_nonzero(np.diff(of_sources))
    assert 400 < changes < 600  # one after the other they would be 999


@pytest.mark.parametrize("whole_steps", [False, True])
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_each_row_is_read_once_by_ranks_that_have_shards_of_their_own(ranks, whole_steps):
    layouts = (Layout(8, 64, 16, 4), Layout(8, 64, 8, 1), Layout(1, 1, 1, 4))
    shuffles = ("block", "block", "none")
    sources = tuple(
        SourceOrder(f"s{n}", 20_000, shuffle, layout)
        for n, (shuffle, layout) in enumerate(zip(shuffles, layouts, strict=True))
    )
    of_steps = ("first_exhausted", 64) if whole_steps else ()
    kind = StepMixture if whole_steps else Mixture
    mixture = kind((20_000,) * 3, (Change(0, (5, 3, 2)),), 8, *of_steps)
    plan = plan_of(mixture, sources, 0, 64 // ranks, ranks)
    read = Counter()
    for rank in range(ranks):
        shares = [plan.steps.slice_of(step, rank) for step in range(plan.steps.num_steps)]
        for group in schedule(plan.windows(), shares, 4096):
            for window in (window for some in group.reads for window in some):
                read[window.source] += window.size
    needed = mixture.delivered(0, plan.steps.num_steps * 64)
    for source, rows in enumerate(needed.tolist()):
        assert read[source] <= 1.1 * rows
