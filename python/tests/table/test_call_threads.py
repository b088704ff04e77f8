# SPDX-License-Identifier: Apache-2.0
"""Blocking calls of an event loop: threads are used again, and end by themselves."""

import asyncio
import os
import threading

import pytest
from lancedb.integrations._torch.common.process import PROCESS
from lancedb.integrations._torch.table.call_threads import CallThreads, in_thread
from limits import HANGS


@pytest.fixture(autouse=True)
def threads():
    before = PROCESS.part(CallThreads)
    PROCESS.replace(CallThreads())
    yield
    PROCESS.replace(before)


def test_calls_one_after_the_other_are_made_in_one_thread():
    async def calls():
        return {await in_thread(threading.current_thread) for _ in range(20)}

    assert len(asyncio.run(calls())) == 1


def test_there_are_as_many_threads_as_calls_at_once_and_each_ends_when_it_has_nothing_to_do():
    together = threading.Barrier(5)

    def call():
        together.wait(HANGS)
        return threading.current_thread()

    async def calls():
        return await asyncio.gather(*(in_thread(call) for _ in range(5)))

    used = asyncio.run(calls())
    assert len(set(used)) == 5
    for thread in used:
        thread.join(HANGS)
        assert not thread.is_alive()
    assert asyncio.run(in_thread(threading.current_thread)) not in used


def test_what_a_call_raises_is_raised_where_it_is_waited_for():
    with pytest.raises(ZeroDivisionError):
        asyncio.run(in_thread(lambda: 1 / 0))


def test_a_call_that_nobody_waits_for_any_more_leaves_its_thread_to_others():
    begun, goes_on = threading.Event(), threading.Event()

    def slow():
        begun.set()
        goes_on.wait(HANGS)

    async def calls():
        waiting = asyncio.create_task(in_thread(slow))
        await in_thread(lambda: begun.wait(HANGS))
        waiting.cancel()
        goes_on.set()
        return await in_thread(lambda: "done")

    assert asyncio.run(calls()) == "done"
    PROCESS.part(CallThreads).at_exit()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_process_has_threads_of_its_own():
    asyncio.run(in_thread(lambda: None))
    child = os.fork()
    if child == 0:
        os._exit(asyncio.run(in_thread(lambda: 7)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
