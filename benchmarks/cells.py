# SPDX-License-Identifier: Apache-2.0
"""Cells in processes of their own: time limit, memory of the whole tree, their end.

A crash or a hang of one loader is a line in the results and nothing more.
"""

from __future__ import annotations

import logging
import multiprocessing
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

SAMPLE_SECONDS = 0.2
GRACE_SECONDS = 0.2
END_SECONDS = 10.0
# Imported once, so that a cell's process is there in a fraction of a second.
CONTEXT = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")
if sys.platform != "win32":
    CONTEXT.set_forkserver_preload(
        ["PIL.Image", "lancedb.integrations._torch.loader.worker_preload"]
    )

Cell = Callable[[Any, Connection], None]


def run(cell: Cell, task: Any, limit: float) -> dict[str, Any]:
    """Everything that a cell sent within the limit, its peak memory, and what went wrong."""
    receiver, sender = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=guarded, args=(cell, task, sender))
    process.start()
    sender.close()
    tree = Tree(process.pid)
    try:
        return collect(receiver, tree, limit)
    finally:
        process.join(GRACE_SECONDS)
        tree.end()
        process.join()


def guarded(cell: Cell, task: Any, results: Connection) -> None:
    """Run a cell; an exception is a result, a warning is not."""
    # A process has the start method of the one that started it; peers are to have Python's own.
    multiprocessing.set_start_method(None, force=True)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    try:
        cell(task, results)
    except BaseException as error:
        traceback.print_exc()
        results.send({"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]})
        results.send(None)


def collect(results: Connection, tree: Tree, limit: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    until = time.perf_counter() + limit
    try:
        while time.perf_counter() < until:
            if results.poll(SAMPLE_SECONDS):
                message = results.recv()
                if message is None:
                    break
                found.update(message)
            tree.look()
        else:
            found["error"] = f"no end within {limit:.0f} s"
    except EOFError:
        found["error"] = "its process died"
    return found | ({"memory": tree.peak} if tree.peak else {})


class Tree:
    """A process and all that it has started."""

    def __init__(self, pid: int | None):
        self.root = psutil.Process(pid)
        self.seen = {self.root}
        self.peak = 0.0

    def look(self) -> None:
        """Note the processes there are, and the memory they hold together."""
        try:
            self.seen.update(self.root.children(recursive=True))
        except psutil.NoSuchProcess:
            return
        self.peak = max(self.peak, sum(map(held, self.seen)))

    def end(self) -> None:
        self.look()
        for process in self.seen:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        # Those killed last may still give their memory back, beside the next one to be measured.
        until = time.perf_counter() + END_SECONDS
        pids = [process.pid for process in self.seen - {self.root}]
        while not all(map(is_over, pids)) and time.perf_counter() < until:
            time.sleep(SAMPLE_SECONDS)


def is_over(pid: int) -> bool:
    """Whether a process has ended; who adopted it may not have asked for its end yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def held(process: psutil.Process) -> float:
    """MB of a process that the system cannot take back: no page cache, shared pages by share."""
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return sum(int(kb) for kb in re.findall(r"^Pss_(?:Anon|Shmem):\s+(\d+)", text, re.M)) / 1024
