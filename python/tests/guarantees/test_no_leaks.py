# SPDX-License-Identifier: Apache-2.0
"""Whatever way an epoch ends, its threads, processes, files and memory go with it."""

import gc
import itertools
import os
import subprocess
import sys
import threading
import time
import weakref

import psutil
import pytest
from lancedb.integrations._torch.order import shuffle as order_module
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset
from limits import HANGS
from soak import soaked

ORDERS = [
    {"shuffle": False},
    {"shuffle": True, "block_rows": 8, "window_rows": 256, "lanes": 8},
    {"shuffle": "global"},
]


def breaks(columns):
    if 700 in columns["id"]:
        raise KeyError("broken")
    return columns


def loader_of(table, order, workers=0, started=None, **options):
    dataset = LanceIterableTorchDataset(
        table, columns=["id"], format="torch", batch_size=100, **order, **options
    )
    return LanceDataLoader(dataset, num_workers=workers, **(started or {}))


def run_out(loader):
    for _ in loader:
        pass


def break_off(loader):
    for _ in loader:
        break


def drop_the_iterator(loader):
    batches = iter(loader)
    next(batches)
    del batches


def fail(loader):
    loader.dataset._output.transform = breaks
    with pytest.raises(KeyError):
        run_out(loader)


def wait_for_reads():
    """Wait for threads of reads that cannot be called off: they end by themselves."""
    for thread in threading.enumerate():
        if thread.name == "lance-take":
            thread.join(HANGS)


@pytest.fixture
def left_behind():
    """Threads of ours and child processes that are alive and were not when the test began: a
    store that does not answer has the threads of other tests wait for minutes.
    """
    before = _alive()

    def since():
        gc.collect()
        wait_for_reads()
        return sorted(str(each) for each in _alive() - before)

    return since


def _alive():
    threads = {each for each in threading.enumerate() if each.name.startswith("lance-")}
    here = psutil.Process()
    return threads | {each for each in here.children(recursive=True) if not _stays(each)}


def _stays(process):
    """Whether this is one of Python's own servers, which stay for the next workers."""
    try:
        said = " ".join(process.cmdline())
    except psutil.Error:
        return True
    return "forkserver import" in said or "resource_tracker import" in said


@pytest.mark.few(5)
@pytest.mark.parametrize("ending", [run_out, break_off, drop_the_iterator, fail])
@pytest.mark.parametrize("order", ORDERS, ids=["none", "block", "global"])
def test_no_thread_outlives_the_epoch(wide_range, order, ending, left_behind):
    loader = loader_of(wide_range, order)
    ending(loader)
    assert left_behind() == []


@pytest.mark.few(1)
@pytest.mark.parametrize("ending", [run_out, break_off, drop_the_iterator])
def test_no_worker_outlives_the_epoch(wide_range, ending):
    before = len(psutil.Process().children(recursive=True))
    loader = loader_of(wide_range, ORDERS[1], workers=2)
    ending(loader)
    gc.collect()
    # The fork server and the resource tracker stay for the next workers.
    assert len(psutil.Process().children(recursive=True)) <= max(before, 2)


@pytest.fixture
def without_collection():
    gc.disable()
    yield
    gc.enable()


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("workers", "started", "ending"),
    [
        (0, {}, run_out),
        (0, {}, break_off),
        (0, {}, drop_the_iterator),
        (1, {}, break_off),
        (1, {"persistent_workers": True}, run_out),
        (1, {"persistent_workers": True}, drop_the_iterator),
    ],
)
def test_a_loader_and_its_workers_go_with_the_last_reference(
    wide_range, workers, started, ending, without_collection, left_behind
):
    loader = loader_of(wide_range, ORDERS[1], workers, started)
    ending(loader)
    gone = weakref.ref(loader)
    del loader
    assert gone() is None
    assert left_behind() == []


class Collects:
    """A transform in whose thread the garbage collector runs once the iterator is garbage."""

    def __init__(self):
        self.dropped = threading.Event()
        self.calls = itertools.count()

    def __call__(self, columns):
        if next(self.calls) and self.dropped.wait(30):
            gc.collect()
        return columns


@pytest.mark.usefixtures("without_collection")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_thread_that_finds_its_own_iterator_gone_ends(wide_range, threads, monkeypatch):
    unheard = []
    monkeypatch.setattr(sys, "unraisablehook", unheard.append)
    transform = Collects()
    options = {"transform": transform, "transform_threads": threads}
    cycle = [iter(loader_of(wide_range, ORDERS[1], **options).dataset)]
    cycle.append(cycle)
    next(cycle[0])
    started = [each for each in threading.enumerate() if each.name.startswith("lance-")]
    assert started
    del cycle
    transform.dropped.set()
    for each in started:
        each.join(30)
    assert not any(each.is_alive() for each in started)
    assert unheard == []


class Freed:
    """Which thread let go of each batch, and how many batches are there at a time."""

    def __init__(self):
        self.by = []
        self.alive = self.most = 0

    def watch(self, batch):
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(batch["id"], self._note)

    def _note(self):
        self.alive -= 1
        self.by.append(threading.current_thread().name)


@pytest.mark.parametrize("order", ORDERS, ids=["none", "block", "global"])
def test_batches_are_freed_by_the_thread_that_makes_them_soon_after(wide_range, order, monkeypatch):
    monkeypatch.setattr(order_module, "_JOB_BYTES", 1)  # a job for each batch
    freed = Freed()
    loader = loader_of(wide_range, order, cache=False)
    for batch in loader:
        freed.watch(batch)
    del batch
    assert len(freed.by) == len(loader)
    # The last ones go when the epoch ends.
    assert {name.startswith("lance-batches") for name in freed.by[:-6]} == {True}
    assert freed.most <= 4


@pytest.mark.parametrize("threads", [0, 1])
def test_what_a_transform_made_is_freed_by_whoever_has_it(wide_range, threads):
    def grow(columns):
        columns["id"] = columns["id"] + 1  # as one that decodes images in place
        return columns

    freed = Freed()
    for batch in loader_of(wide_range, ORDERS[1], transform=grow, transform_threads=threads):
        freed.watch(batch)
    assert freed.most <= 2


def test_open_files_threads_and_memory_level_off(wide_range):
    loader = loader_of(wide_range, ORDERS[1])
    process = psutil.Process()

    def measure():
        gc.collect()
        wait_for_reads()
        return process.num_fds(), process.num_threads(), process.memory_info().rss

    for _ in range(5):
        break_off(loader)
        run_out(loader)
    files, threads, memory = measure()
    for _ in range(30):
        break_off(loader)
    for _ in range(10):
        run_out(loader)
    more_files, more_threads, more_memory = measure()
    assert more_files <= files + 2
    assert more_threads <= threads + 2
    assert more_memory - memory < 30 << 20


SCRIPT = """
import copyreg
import sys
copyreg.dispatch_table["kept"] = sys.modules["__main__"]  # so that it ends last, as dill has it
from lancedb.integrations.torch import LanceDataLoader, LanceIterableTorchDataset

if __name__ == "__main__":
    dataset = LanceIterableTorchDataset(
        uri=sys.argv[1], table_name="many", format="torch", batch_size=32, shuffle=True,
        block_rows=8, window_rows=256, lanes=8,
    )
    loader = LanceDataLoader(dataset, num_workers=int(sys.argv[2]))
    batches = iter(loader)
    next(batches)
    print("ready", flush=True)
"""


@pytest.mark.parametrize("workers", [0, soaked(1)])
def test_the_interpreter_exits_in_the_middle_of_an_epoch(tmp_path, wide_range, workers):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script), str(tmp_path / "db"), str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": ""},
        text=True,
    )
    assert child.stdout.readline().strip() == "ready"
    started = time.monotonic()
    _, said = child.communicate(timeout=HANGS)
    assert (child.returncode, said) == (0, "")
    # A bound on hanging, not a measurement: two seconds are promised.
    assert time.monotonic() - started < 20
