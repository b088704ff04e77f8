# SPDX-License-Identifier: Apache-2.0
"""Processes that are forked from one that iterates, as a library may do at any time."""

import multiprocessing

import pytest
from loaders import KINDS, flat, iterable, run

FORK = multiprocessing.get_context("fork")


def in_a_fork(of):
    """What a function returns in a forked process, which has to come to its end."""
    ours, theirs = FORK.Pipe(duplex=False)

    def run_it():
        theirs.send(of())

    child = FORK.Process(target=run_it)
    child.start()
    theirs.close()
    try:
        return ours.recv()
    finally:
        child.join()


@KINDS
@pytest.mark.parametrize("taken", [0, 1])
def test_a_fork_that_drops_an_iterator_ends_at_once_and_leaves_the_workers_alone(
    table, make, taken
):
    held = [iter(make(table, 2, drop_last=False))]
    seen = run(held[0], taken)

    def drop():
        held.clear()
        return "dropped"

    assert in_a_fork(drop) == "dropped"
    assert sorted(flat(seen + run(held[0]))) == list(range(1000))


@pytest.mark.soak
def test_a_fork_iterates_with_workers_of_its_own(table):
    options = {"persistent_workers": True, "multiprocessing_context": "fork"}
    loader = iterable(table, 1, drop_last=False, **options)
    first = loader.peek()["id"].tolist()
    theirs = in_a_fork(lambda: run(loader))
    assert theirs[0] == first
    assert run(loader) == theirs
    theirs = in_a_fork(lambda: run(loader))  # with workers that were kept from the epoch before
    assert run(loader) == theirs
