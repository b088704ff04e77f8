# SPDX-License-Identifier: Apache-2.0
"""A value that each process makes for itself."""

import multiprocessing
import pickle
import threading

from lancedb.integrations._torch.common.per_process import PerProcess


def test_a_value_is_made_once():
    made = []
    value = PerProcess()
    assert value.known is None
    assert [value.get(lambda: made.append(1) or len(made)) for _ in range(3)] == [1, 1, 1]
    assert value.known == 1


def test_one_that_is_not_good_any_more_is_made_anew():
    value = PerProcess()
    assert value.get(lambda: 1) == 1
    assert value.get(lambda: 2, lambda number: number > 1) == 2
    assert value.known == 2


def test_threads_that_make_one_at_the_same_time_are_given_the_same_one():
    value, both = PerProcess(), threading.Barrier(2)

    def make():
        both.wait()
        return object()

    found = []
    threads = [threading.Thread(target=lambda: found.append(value.get(make))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] is found[1]


def _known_in_a_fork(value, answers):
    answers.put((value.known, value.get(lambda: "its own")))


def test_neither_a_fork_nor_a_pickle_has_its_parents():
    value = PerProcess()
    value.get(lambda: "the parent's")
    assert pickle.loads(pickle.dumps(value)).known is None
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_known_in_a_fork, args=(value, answers))
    child.start()
    assert answers.get(timeout=60) == (None, "its own")
    child.join()
    assert value.known == "the parent's"
