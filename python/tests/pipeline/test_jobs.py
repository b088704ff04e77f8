# SPDX-License-Identifier: Apache-2.0
"""Jobs of rows in memory: planned one after the other, copied and converted two at a time."""

import contextlib
import itertools
import threading
from functools import partial

import pyarrow as pa
import pytest
from lancedb.integrations._torch.order.state import Position
from lancedb.integrations._torch.pipeline import prefetch
from lancedb.integrations._torch.pipeline.sources import InMemorySource
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset

ROWS = 60_000
PATIENCE = 60


@pytest.fixture
def loader(db, monkeypatch):
    monkeypatch.setattr(prefetch, "_has_a_core_to_spare", lambda: True)
    table = db.create_table("t", pa.table({"id": range(ROWS)}))
    dataset = LanceIterableTorchDataset(
        table, format="torch", shuffle=True, batch_size=500, cache=True
    )
    return LanceDataLoader(dataset)


def ids_of(epoch, came=None):
    """The ids of each batch, added to those that came before."""
    came = [] if came is None else came
    for batch in epoch:
        came.append(batch["id"].tolist())
    return came


def copied_by(monkeypatch, copy):
    """Have `copy(number, take)` called with the number of each job and what gives its rows."""
    numbers, batch = itertools.count(), InMemorySource.batch

    def numbered(self, pieces):  # jobs are planned one after the other
        return partial(copy, next(numbers), batch(self, pieces))

    monkeypatch.setattr(InMemorySource, "batch", numbered)


def test_a_job_that_is_copied_later_than_the_next_comes_before_it(loader, monkeypatch):
    expected = ids_of(loader)
    second_is_copied = threading.Event()

    def second_first(number, take):
        if number == 0:
            assert second_is_copied.wait(PATIENCE), "jobs are copied one after the other"
        rows = take()
        if number == 1:
            second_is_copied.set()
        return rows

    copied_by(monkeypatch, second_first)
    loader.set_epoch(0)
    assert ids_of(loader) == expected


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_job_that_fails_ends_the_epoch_after_those_before_it(bad, loader, monkeypatch):
    whole, came = ids_of(loader), []

    def fail(number, take):
        if number == bad:
            raise MemoryError("no room for its rows")
        return take()

    copied_by(monkeypatch, fail)
    loader.set_epoch(0)
    with pytest.raises(MemoryError, match="no room"):
        ids_of(loader, came)
    assert came == whole[: len(came)]
    assert (len(came) > 0) == (bad > 0)


@pytest.fixture
def waited_for(monkeypatch):
    """What jobs wait for, at the end no more, or they would keep the program."""
    events, make = [], prefetch.Prefetcher._make_job

    def noted(self, before, planned):
        events.append(before)
        return make(self, before, planned)

    monkeypatch.setattr(prefetch.Prefetcher, "_make_job", noted)
    yield
    for event in events:
        event.set()


@pytest.mark.usefixtures("waited_for")
@pytest.mark.parametrize("two_threads", [False, True])
def test_a_job_is_not_waited_for_by_the_next_one_if_it_was_cancelled(
    two_threads, loader, monkeypatch
):
    monkeypatch.setattr(prefetch, "_has_a_core_to_spare", lambda: two_threads)
    dataset, plan = loader.dataset, loader.dataset._plan(Position(0), None)
    spans = ((start, start + 500) for start in range(0, ROWS, 500))
    with contextlib.ExitStack() as stack:
        stream = dataset._stream(stack, plan, spans, dataset._output, False)
        goes_on = threading.Event()
        for _ in range(1 + two_threads):  # each thread has something else to do
            stream._making.submit(goes_on.wait, PATIENCE)
        stream._work_ahead(2)
        assert stream._jobs.popleft().cancel()
        stream._work_ahead(2)
        goes_on.set()
        assert [len(job.result(PATIENCE).begun) > 0 for job in stream._jobs] == [True, True]
        stream.close()
