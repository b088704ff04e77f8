# SPDX-License-Identifier: Apache-2.0
"""Record batches reach another process as they are, in memory that is used again."""

import contextlib
import multiprocessing
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from arrow_strategies import record_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from lancedb.integrations._torch.workers.batch_slots import BatchSlots

SMALL = pa.record_batch({"x": [1, 2, 3]})


@given(record_batches(views=True), st.data())
@settings(max_examples=40)
def test_a_batch_comes_as_it_was_put(batch, data):
    start = data.draw(st.integers(0, batch.num_rows))
    part = batch.slice(start, data.draw(st.integers(0, batch.num_rows - start)))
    slots = BatchSlots()
    for copy in (True, False):
        got = slots.get(slots.put(0, part), copy)
        assert got.schema.equals(part.schema, check_metadata=True)
        assert got.to_pylist() == part.to_pylist()


def test_a_copy_does_not_change_with_its_slot():
    slots = BatchSlots()
    copy = slots.get(slots.put(0, SMALL), copy=True)
    slots.put(0, pa.record_batch({"x": [7, 8, 9]}))
    assert copy.to_pydict() == {"x": [1, 2, 3]}


def test_what_stands_in_one_slot_is_left_alone_by_the_others():
    slots = BatchSlots()
    batches = [pa.record_batch({"x": [number] * (1 << number)}) for number in range(16)]
    places = [slots.put(number, batch) for number, batch in enumerate(batches)]
    assert [slots.get(place, copy=False) for place in places] == batches


def test_several_threads_put_batches_into_slots_of_their_own(monkeypatch):
    batches = [pa.record_batch({"x": [number] * 10}) for number in range(8)]
    slots, meet = BatchSlots(), threading.Barrier(8)
    truncate = os.ftruncate

    def together(file, size):
        # Whoever is not kept out has chosen a place by now, and all of them the same one.
        with contextlib.suppress(threading.BrokenBarrierError):
            meet.wait(0.05)
        truncate(file, size)

    monkeypatch.setattr(os, "ftruncate", together)
    with ThreadPoolExecutor(8) as pool:
        places = list(pool.map(slots.put, range(8), batches))
    assert [slots.get(place, copy=False) for place in places] == batches


def memory_of(slots):
    """Bytes that the memory of all slots takes."""
    return os.fstat(slots._file).st_blocks * 512


def test_what_a_large_batch_took_is_given_back():
    slots = BatchSlots()
    slots.put(0, SMALL)
    before = memory_of(slots)
    for _ in range(3):
        large = pa.record_batch({"x": np.arange(1 << 20)})
        assert slots.get(slots.put(0, large), copy=True) == large
        assert memory_of(slots) >= large.nbytes
        slots.put(0, SMALL)
        assert memory_of(slots) < before + (1 << 20)


def _sum(slots, queue):
    for place in iter(queue.get, None):
        assert slots.get(place, copy=True).num_rows
        queue.task_done()


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_another_process_finds_batches_that_are_put_once_it_has_begun(method):
    context = multiprocessing.get_context(method)
    slots, queue = BatchSlots(), context.JoinableQueue()
    child = context.Process(target=_sum, args=(slots, queue))
    child.start()
    for rows in (10, 100_000, 3):
        queue.put(slots.put(0, pa.record_batch({"x": range(rows)})))
        queue.join()
    queue.put(None)
    child.join()
    assert child.exitcode == 0
