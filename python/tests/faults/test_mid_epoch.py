# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in mid-epoch says so at once, and the run goes on exactly where it was."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from multiprocessing.connection import wait
from types import SimpleNamespace

import psutil
import pytest
from lancedb.integrations._torch.loader.worker_pool import WorkerPool
from lancedb.integrations._torch.workers.watchdog import WorkerWatch, kill_workers
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from limits import HANGS
from loaders import torch_iterator, workers_of
from soak import soaked
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

WINDOWS = {"shuffle": True, "block_rows": 8, "window_rows": 256, "lanes": 8}
IN_ORDER = {"shuffle": False, **dict.fromkeys(("block_rows", "window_rows", "lanes"), "auto")}
KINDS = pytest.mark.parametrize("kind", ["iterable", "mapped"])
# Each that is spawned imports everything; what becomes of the others, the other methods show.
WORKERS = {"forkserver": 2, "fork": 2, "spawn": 1}


def loader_of(table, kind="iterable", workers=2, **options):
    ours = ("persistent_workers", "multiprocessing_context")
    keep = {key: options.pop(key) for key in ours if key in options}
    options = {"columns": ["id"], "format": "torch", **options}
    if kind == "mapped":
        dataset = LanceTorchDataset(table, **options)
        keep.update(batch_size=100, shuffle=True)
    else:
        dataset = LanceIterableTorchDataset(table, batch_size=100, **{**WINDOWS, **options})
    return LanceDataLoader(dataset, num_workers=workers, **keep)


def ids(batch):
    return batch["id"].tolist() if isinstance(batch, dict) else [row["id"] for row in batch]


def run(loader):
    return [ids(batch) for batch in loader]


# -- a worker is killed ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "persistent", "method"),
    [
        ("iterable", True, "forkserver"),
        ("mapped", False, "forkserver"),
        soaked("iterable", False, "forkserver"),
        soaked("mapped", True, "forkserver"),
        soaked("iterable", True, "spawn"),  # which starts slowly
    ],
)
def test_a_killed_worker_is_named_and_the_run_goes_on_exactly(wide_range, kind, persistent, method):
    whole = run(loader_of(wide_range, kind, 0))
    loader = loader_of(
        wide_range,
        kind,
        WORKERS[method],
        persistent_workers=persistent,
        multiprocessing_context=method,
    )
    batches, got = iter(loader), []
    for _ in range(10):
        got.append(ids(next(batches)))
    victim = workers_of(batches)[-1].pid
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=rf"\(pid(\(s\))? {victim}\)"):
        got.extend(map(ids, batches))
    assert len(got) < len(whole)
    state = json.loads(json.dumps(loader.state_dict()))
    loader.load_state_dict(state)
    assert got + run(loader) == whole
    other = loader_of(wide_range, kind, 1)
    other.load_state_dict(state)
    assert got + run(other) == whole


def test_a_dead_worker_that_torch_finds_before_we_do_is_named_and_replaced(wide_range, monkeypatch):
    monkeypatch.setattr(WorkerWatch, "_note_end", lambda self, number: None)
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.1,))
    whole = run(loader_of(wide_range, workers=0))
    loader = loader_of(wide_range, persistent_workers=True)
    batches = iter(loader)
    got = [ids(next(batches))]
    victim = workers_of(batches)[1].pid
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=rf"\(pid {victim}\) was killed by SIGKILL"):
        got.extend(map(ids, batches))
    loader.load_state_dict(loader.state_dict())
    assert got + run(loader) == whole


@pytest.mark.parametrize("method", ["forkserver", soaked("spawn")])
def test_a_worker_killed_in_the_middle_of_a_message_does_not_hang_the_loader(wide_range, method):
    dataset = LanceIterableTorchDataset(
        wide_range, columns=["id", "vec"], format="python", batch_size=2000
    )
    loader = LanceDataLoader(dataset, num_workers=1, multiprocessing_context=method)
    whole = run(LanceDataLoader(dataset))
    loader.set_epoch(0)
    batches = iter(loader)
    got = [ids(next(batches))]
    # Batches of hundreds of kilobytes do not fit into the pipe: the worker is writing one.
    reader = torch_iterator(batches)._worker_result_queue._reader
    assert reader.poll(60)
    os.kill(workers_of(batches)[0].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="worker"):
        got.extend(map(ids, batches))
    loader.load_state_dict(loader.state_dict())
    assert got + run(loader) == whole


def test_a_worker_that_died_before_its_batch_was_taken_is_named_and_not_torchs_error(wide_range):
    whole = run(loader_of(wide_range, workers=0))
    loader = loader_of(wide_range, workers=1)
    batches = iter(loader)
    got = [ids(next(batches))]
    # The next batch is there, but its tensors have to be asked for where they were made.
    assert torch_iterator(batches)._worker_result_queue._reader.poll(60)
    victim = workers_of(batches)[0]
    kill(victim)
    with pytest.raises(RuntimeError, match=rf"\(pid {victim.pid}\) was killed by SIG") as caught:
        got.extend(map(ids, batches))
    by_torch = caught.value.__cause__
    assert "exited unexpectedly" in str(by_torch)
    assert isinstance(by_torch.__cause__, (OSError, EOFError))
    loader.load_state_dict(loader.state_dict())
    assert got + run(loader) == whole


def test_the_number_of_a_worker_that_has_ended_is_left_to_whoever_has_it_next(monkeypatch):
    worker = multiprocessing.get_context("forkserver").Process(target=int)
    worker.start()
    wait([worker.sentinel])
    killed = []
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    kill_workers(SimpleNamespace(_workers=[worker], _worker_pids_set=False))
    assert killed == []
    assert worker._popen.returncode is None  # it is for one thread to ask how the worker ended


def finish(batches):
    return list(batches)


def break_off(batches):
    return [next(batches)]


def kill(worker):
    """Kill a worker, and wait until this process has seen it."""
    with contextlib.suppress(RuntimeError):  # torch's handler of SIGCHLD raises wherever we are
        worker.kill()
        worker.join()
    worker.join()
    assert worker.exitcode == -signal.SIGKILL


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("kind", "stop", "method"),
    [
        ("iterable", finish, "forkserver"),
        ("mapped", break_off, "forkserver"),
        soaked("iterable", break_off, "fork"),
        soaked("mapped", finish, "spawn"),
    ],
)
def test_a_worker_killed_between_epochs_is_replaced(wide_range, kind, stop, method, caplog):
    whole = loader_of(wide_range, kind, 0)
    epochs = [run(whole) for _ in range(3)]
    loader = loader_of(
        wide_range, kind, WORKERS[method], persistent_workers=True, multiprocessing_context=method
    )
    batches = iter(loader)
    victim = workers_of(batches)[-1]
    stop(batches)
    del batches
    kill(victim)
    assert run(loader) == epochs[1]
    assert f"(pid {victim.pid}) was killed by SIGKILL between epochs" in caplog.text
    workers = loader._iterator._workers
    assert run(loader) == epochs[2]
    assert loader._iterator._workers is workers


def test_a_worker_that_dies_as_it_is_asked_to_go_on_is_named_and_replaced(wide_range, monkeypatch):
    whole = run(loader_of(wide_range, workers=0))
    loader = loader_of(wide_range, persistent_workers=True)
    break_off(iter(loader))
    loader.set_epoch(0)
    victim = loader._iterator._workers[1]
    kill(victim)
    monkeypatch.setattr(WorkerPool, "persistent", lambda self: self._loader._iterator)
    with pytest.raises(RuntimeError, match=rf"\(pid {victim.pid}\) was killed by SIGKILL, after 0"):
        iter(loader)
    loader.load_state_dict(loader.state_dict())
    assert run(loader) == whole


def test_an_iterator_that_failed_does_not_end_as_if_it_were_done(wide_range):
    loader = loader_of(wide_range, workers=1)
    batches = iter(loader)
    next(batches)
    os.kill(workers_of(batches)[0].pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="killed"):
        list(batches)
    with pytest.raises(RuntimeError, match=r"this iterator failed.*loader\.state_dict\(\)"):
        next(batches)
    loader.load_state_dict(loader.state_dict())
    assert ids(next(batches))


def refuse(columns):
    raise ValueError("not these")


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_end_with_an_error_of_one_of_them(wide_range, persistent):
    batches = iter(loader_of(wide_range, transform=refuse, persistent_workers=persistent))
    workers = workers_of(batches)
    with pytest.raises(ValueError, match="not these"):
        next(batches)
    assert not any(worker.is_alive() for worker in workers)


def refuse_or_stay(columns):
    if columns["id"][0] // 100 % 3 == 0:  # the batches of worker 0
        raise ValueError("not these")
    threading.Event().wait(60)


def test_an_error_of_one_worker_does_not_wait_for_the_others(wide_range):
    loader = loader_of(wide_range, workers=3, transform=refuse_or_stay, **IN_ORDER)
    batches = iter(loader)
    workers = workers_of(batches)
    with pytest.raises(ValueError, match="not these"):
        next(batches)
    # torch would ask them to end, wait for five seconds each, and then use SIGTERM.
    assert [worker.exitcode for worker in workers[1:]] == [-signal.SIGKILL] * 2


def leave_as_if_done(columns):
    os._exit(0)


def test_a_worker_that_leaves_as_if_it_were_done_is_named_though_torch_finds_it(table, monkeypatch):
    monkeypatch.setattr(WorkerWatch, "_note_end", lambda self, number: None)
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.1,))
    with pytest.raises(RuntimeError, match=r"worker 0 \(pid \d+\) ended with exit code 0, after 0"):
        run(loader_of(table, workers=1, transform=leave_as_if_done))


def leave_suddenly(columns):
    os._exit(7)


def test_a_worker_that_ends_by_itself_is_named_with_its_exit_code(table):
    with pytest.raises(RuntimeError, match=r"worker 0 \(pid \d+\) ended with exit code 7, after 0"):
        run(loader_of(table, workers=1, transform=leave_suddenly))
    with pytest.raises(RuntimeError, match="put what starts workers under if __name__"):
        run(loader_of(table, workers=1, transform=leave_suddenly))


# -- the process that trains is killed or interrupted ------------------------------------------

SCRIPT = """
import signal, sys, threading
from lancedb.integrations._torch.loader.worker_pool import WorkerPool
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset

# Whoever runs the tests in the background may have interrupts ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)


def slow(columns):
    sys.stdout.write("inside\\n")  # in one piece, as several threads may write
    sys.stdout.flush()
    threading.Event().wait(0.2)
    return columns


if __name__ == "__main__":
    dataset = LanceIterableTorchDataset(
        uri=sys.argv[1], table_name="many", columns=["id"], format="torch", batch_size=32,
        shuffle=True, block_rows=8, window_rows=256, lanes=8, transform=slow,
    )
    workers = int(sys.argv[2])
    options = {"multiprocessing_context": sys.argv[3]} if workers else {}
    for batch in LanceDataLoader(dataset, num_workers=workers, **options):
        pass
"""


@pytest.fixture
def start_epoch(tmp_path, wide_range):
    """Starts an epoch in a process of its own; returns it and its workers in mid-batch."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    started = []

    def start(workers, method="forkserver"):
        child = subprocess.Popen(
            [
                sys.executable,
                "-W",
                "ignore",
                str(script),
                str(tmp_path / "db"),
                str(workers),
                method,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
        started.append(child)
        for _ in range(4):
            assert child.stdout.readline() == "inside\n"
        return child, psutil.Process(child.pid).children(recursive=True)

    yield start
    for child in started:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


def shared_memory_of(processes):
    """The named shared memory that some processes have mapped or open."""
    paths = set()
    for process in processes:
        paths |= {each.path for each in process.memory_maps() if each.path.startswith("/dev/shm")}
    return {path for path in paths if not path.endswith("(deleted)")}


def assert_gone(processes, memory):
    _, alive = psutil.wait_procs(processes, timeout=HANGS)
    assert alive == []
    assert [path for path in memory if os.path.exists(path)] == []


@pytest.mark.parametrize(
    ("workers", "method"),
    [(0, "none"), soaked(2, "forkserver"), soaked(1, "spawn"), soaked(2, "fork")],
)
def test_an_interrupt_ends_everything_within_seconds(start_epoch, workers, method):
    child, others = start_epoch(workers, method)
    memory = shared_memory_of([psutil.Process(child.pid), *others])
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does
    _, errors = child.communicate(timeout=HANGS)
    assert child.returncode in (-signal.SIGINT, 1)
    assert "KeyboardInterrupt" in errors
    assert_gone(others, memory)


@pytest.mark.soak
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_process_that_they_work_for(start_epoch, how):
    child, others = start_epoch(2)
    assert len(others) >= 3
    memory = shared_memory_of([psutil.Process(child.pid), *others])
    assert memory
    os.kill(child.pid, how)
    child.wait(timeout=HANGS)
    assert_gone(others, memory)


def interrupt_at_700(columns):
    if 700 in columns["id"]:
        raise KeyboardInterrupt
    return columns


@KINDS
def test_a_run_goes_on_exactly_after_an_interrupt(wide_range, kind):
    whole = run(loader_of(wide_range, kind, 0))
    loader = loader_of(wide_range, kind, 0)
    loader.dataset._output.transform = interrupt_at_700
    got, batches = [], iter(loader)
    with pytest.raises(KeyboardInterrupt):
        got.extend(map(ids, batches))
    assert got == whole[: len(got)] != whole
    loader.dataset._output.transform = None
    loader.load_state_dict(loader.state_dict())
    assert got + [ids(batch) for batch in batches] == whole
