# SPDX-License-Identifier: Apache-2.0
"""A signal that the program handles, sent to all of its processes, ends none of its workers."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap

import pytest
from lancedb.integrations._torch.workers.signals import handled_signals
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
from limits import HANGS
from loaders import workers_of

DEFAULT = signal.default_int_handler
PROGRAM = """
import os, signal, sys
import lancedb
from lancedb.integrations.torch import (
    LanceDataLoader, LanceIterableTorchDataset, LanceTorchDataset
)

NAMES = ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGXCPU", "SIGQUIT", "SIGTERM", "SIGINT")

def main():
    heard = []
    for name in NAMES:
        signal.signal(getattr(signal, name), lambda number, frame: heard.append(number))
    table = lancedb.connect("memory://").create_table("t", [{"id": n} for n in range(64)])
    if sys.argv[1] == "iterable":
        loader = LanceDataLoader(LanceIterableTorchDataset(table, batch_size=4), num_workers=2)
    else:
        loader = LanceDataLoader(LanceTorchDataset(table), batch_size=4, num_workers=2)
    for number, batch in enumerate(loader):
        if number == 3:
            for name in NAMES:
                os.killpg(0, getattr(signal, name))
    print(number + 1, len(set(heard)) == len(NAMES))

if __name__ == "__main__":
    main()
"""


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["iterable", "map_style"])
def test_workers_and_their_server_outlive_a_warning_to_the_whole_job(tmp_path, kind):
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(tmp_path / "program.py"), kind],
        capture_output=True,
        text=True,
        timeout=HANGS,
        check=False,
        start_new_session=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["16", "True"]


@pytest.fixture
def handled():
    """SIGTERM, which this process handles meanwhile; Python handles SIGINT."""
    handlers = {signal.SIGTERM: lambda number, frame: None, signal.SIGINT: DEFAULT}
    before = {each: signal.signal(each, handler) for each, handler in handlers.items()}
    yield signal.SIGTERM
    for each, handler in before.items():
        signal.signal(each, handler)


def test_an_interrupt_that_python_handles_itself_is_none_that_the_program_does(handled):
    assert handled_signals() == {handled}


def starts_a_program(batch):
    """How a program ends that a transform has started, and that is asked to."""
    program = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    program.terminate()
    return program.wait(HANGS)


def test_a_worker_that_outlives_a_signal_still_ends_what_it_started_and_is_ended(table, handled):
    loader = LanceDataLoader(
        LanceIterableTorchDataset(table, batch_size=250, transform=starts_a_program),
        num_workers=1,
        multiprocessing_context="fork",
        persistent_workers=True,
    )
    batches = iter(loader)
    ended = [next(batches)]
    (worker,) = workers_of(batches)
    os.kill(worker.pid, handled)
    assert ended + list(batches) == [-handled] * 4
    assert worker.is_alive()
    with contextlib.suppress(RuntimeError):  # of torch's, where it hears of its children
        worker.terminate()
        worker.join(HANGS)
    worker.join(HANGS)
    assert worker.exitcode == -signal.SIGKILL
