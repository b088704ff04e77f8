# SPDX-License-Identifier: Apache-2.0
"""Runs scripts in processes that begin with their imports done, which take seconds otherwise.

They are forked off a process that has imported what they need and has read nothing, as workers are
off multiprocessing's fork server. A script runs in them as ``python script.py`` runs it, or as
``torchrun`` does if it is given ranks.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path

import torch
import torch.distributed as dist


class Starter:
    """The process that scripts are forked off."""

    def __init__(self, connection: Connection):
        self._connection = connection

    def run(self, script: Path, *arguments: str, ranks: int | None = None, timeout: float) -> str:
        """Run a script to its end, with one thread for each rank; what it printed."""
        environments = [dict(os.environ)]
        if ranks is not None:
            # As torchrun does: the store is here, so that no rank has to find a free port for it.
            store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            environments = [{**os.environ, **each} for each in _ranks(ranks, store.port)]
        with tempfile.TemporaryDirectory() as folder:
            outputs = [Path(folder) / str(rank) for rank in range(len(environments))]
            runs = [
                (script, arguments, environment, output)
                for environment, output in zip(environments, outputs, strict=True)
            ]
            codes = self._ask(runs, timeout)
            printed = "".join(output.with_suffix(".out").read_text() for output in outputs)
            errors = "".join(output.with_suffix(".err").read_text() for output in outputs)
        assert codes == [0] * len(runs), f"{script.name} ended with {codes}\n{errors[-4000:]}"
        return printed

    def _ask(self, runs: list[tuple], timeout: float) -> list[int]:
        self._connection.send((runs, timeout))
        try:
            return self._connection.recv()
        except BaseException:
            self._connection.close()  # the answer, if it still comes, is not that of the next runs
            raise


@contextlib.contextmanager
def starter(*modules: str) -> Iterator[Starter]:
    """Start the process, which imports some modules."""
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, modules))
    process.start()
    theirs.close()
    with ours:
        yield Starter(ours)
    process.join()


def _ranks(count: int, port: int) -> Iterator[dict[str, str]]:
    """What torchrun tells each rank."""
    for rank in range(count):
        yield {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "GROUP_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "TORCHELASTIC_RESTART_COUNT": "0",
            "TORCHELASTIC_RUN_ID": "none",
            "OMP_NUM_THREADS": "1",
        }


def _serve(connection: Connection, modules: tuple[str, ...]) -> None:
    """What the process does, until the other end is closed."""
    for module in modules:
        importlib.import_module(module)
    context = multiprocessing.get_context("fork")
    with contextlib.suppress(EOFError):
        while True:
            runs, timeout = connection.recv()
            processes = [context.Process(target=_run, args=(*each, timeout)) for each in runs]
            for process in processes:
                process.start()
            running = {process.sentinel for process in processes}
            while running and not any(process.exitcode for process in processes):
                ended = wait(running, timeout)
                if not ended:
                    break
                running -= set(ended)
            for process in processes:
                process.kill()  # one that is left may wait for a rank that is gone
                process.join()
            connection.send([process.exitcode for process in processes])


def _run(
    script: Path,
    arguments: tuple[str, ...],
    environment: dict[str, str],
    output: Path,
    timeout: float,
):
    """What each process does that is forked."""
    for suffix, descriptor in ((".out", 1), (".err", 2)):
        os.dup2(os.open(output.with_suffix(suffix), os.O_WRONLY | os.O_CREAT), descriptor)
    # One that hangs says where, before it is ended.
    faulthandler.dump_traceback_later(0.9 * timeout, file=2)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
