# SPDX-License-Identifier: Apache-2.0
"""What modules keep for a process: one part of each kind, told of forks and of the end."""

import os
import subprocess
import sys
import threading

import pytest
from lancedb.integrations._torch.common.process import PROCESS, Process


class Calls(list):
    def in_child(self):
        self.append("in child")


class Farewell(list):
    def at_exit(self):
        print(*self, "at exit", flush=True)


def test_there_is_one_part_of_each_kind_whichever_thread_asks_first():
    process, together, found = Process(), threading.Barrier(8), []

    def ask():
        together.wait()
        found.append(process.part(Calls))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(each) for each in found}) == 1
    assert process.part(set) is not process.part(Calls)


def test_a_part_that_was_replaced_is_gone():
    process = Process()
    process.part(Calls).append("old")
    process.replace(Calls(["new"]))
    assert process.part(Calls) == ["new"]


def test_the_last_part_is_told_first_and_those_that_do_not_ask_are_left_alone():
    told, process = [], Process()
    first = type("First", (), {"at_exit": lambda self: told.append("first")})
    last = type("Last", (), {"at_exit": lambda self: told.append("last")})
    for kind in (first, set, last):
        process.part(kind)
    process.call("at_exit")
    assert told == ["last", "first"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_parts_of_a_forked_process_know_of_it():
    PROCESS.part(Calls)
    child = os.fork()
    if child == 0:
        os._exit(0 if PROCESS.part(Calls) == ["in child"] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert PROCESS.part(Calls) == []


def test_parts_are_told_of_the_end():
    program = "from test_process import *; PROCESS.part(Farewell).append('told')"
    path = os.pathsep.join([os.path.dirname(__file__), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "told at exit\n"
