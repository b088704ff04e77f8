# SPDX-License-Identifier: Apache-2.0
"""Whatever happens to a cache on disk, rows are right, nobody waits, and nothing is left behind."""

import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from conftest import rows_of
from damage import cut, emptied, flipped
from lancedb.integrations._torch.cache import directory, locks, parts
from lancedb.integrations._torch.cache.directory import CacheDirectory
from lancedb.integrations._torch.cache.locks import FileLock
from lancedb.integrations.torch import LanceTorchDataset, cache_info, clear_cache
from limits import HANGS
from small_parts import small_parts

__all__ = ["small_parts"]
pytestmark = pytest.mark.usefixtures("small_parts")

ROWS = [999, 0, 500, 0, 321, 64, 63, 998]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def cached(table, cache, **arguments):
    return LanceTorchDataset(table, format="arrow", cache=False, cache_dir=cache, **arguments)


def fill(dataset):
    dataset._rows.disk.fill(again=True)
    dataset._rows.disk.wait()


def assert_right(dataset):
    """Some rows, and all of them."""
    assert dataset[ROWS]["id"].to_pylist() == ROWS
    everything = dataset[:]
    assert everything["id"].to_pylist() == list(range(1000))
    assert everything["text"].to_pylist() == rows_of(1000)["text"].to_pylist()


def assert_whole(table, cache):
    """A run that comes later finds right rows, completes the cache, and leaves nothing else."""
    dataset = cached(table, cache)
    assert_right(dataset)
    fill(dataset)
    assert dataset._rows.disk.is_complete
    assert_right(cached(table, cache))
    (info,) = cache_info(cache)["tables"]
    assert info["cached_rows"] == 1000
    assert {path.suffix for path in cache.rglob("*") if path.is_file()} <= {
        ".arrow",
        ".json",
        ".writing",
        ".reading",
        "",
    }


# -- the writer is killed --------------------------------------------------------------------


def killed_at(point, write):
    """Run `write` in a process that is killed as it begins its n-th step on the disk."""
    child = os.fork()
    if child == 0:
        steps = iter(range(point))

        def counted(function):
            def step(*arguments, **named):
                if next(steps, None) is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **named)

            return step

        for owner, name in [
            (parts._Checked, "write"),
            (os, "replace"),
            (os, "open"),
            (os, "close"),
            (os, "mkdir"),
        ]:
            setattr(owner, name, counted(getattr(owner, name)))
        try:
            write()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_a_writer_killed_at_any_point_leaves_nothing_that_is_believed(table, cache):
    rows = table.to_arrow().combine_chunks().to_batches()[0]
    dataset = cached(table, cache)
    described = dataset._rows.disk._rows

    def write():
        place = CacheDirectory(cache)
        place.prepare()
        entry = place.entry(described.key)
        assert entry.reading.acquire(shared=True)
        assert entry.writing.acquire()
        entry.make(described.about)
        for number in described.wanted[:2]:
            start = number * described.part_rows
            parts.write_part(entry, number, [rows.slice(start, described.part_rows)])

    point = 0
    while killed_at(point, write):
        for part in cache.glob("*/*.arrow"):
            number, _, crc32 = part.stem.partition("-")
            found = parts.PartFile(part, int(number), int(crc32, 16))
            start = int(number) * described.part_rows
            read = parts.open_part(found, min(described.part_rows, 1000 - start))
            assert read[0]["id"][0].as_py() == start
        if point % 12 == 0:
            later = cached(table, cache)
            assert later[ROWS]["id"].to_pylist() == ROWS
            later._rows.disk.wait()  # whoever writes meanwhile keeps the next one from it
        point += 1
    assert point > 20
    assert_whole(table, cache)


def test_a_lock_ends_with_its_process_and_is_not_its_child_s(tmp_path):
    lock, other = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert lock.acquire()
    assert not other.acquire()
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(ready[1], b"." if not lock.is_held else b"!")
        os.read(done[0], 1)
        os._exit(0)
    assert os.read(ready[0], 1) == b"."
    assert not other.acquire()  # what the child closed is still the parent's
    lock.release()
    assert other.acquire()  # and what the parent gives up is not the child's
    os.write(done[1], b".")
    os.waitpid(child, 0)
    for end in (*ready, *done):
        os.close(end)
    other.release()


# -- many processes --------------------------------------------------------------------------

TOGETHER = """
import sys
sys.path[:0] = {path!r}
from lancedb.integrations._torch.cache import cached_rows
cached_rows._PART_BYTES = 8000
import lancedb
from lancedb.integrations.torch import LanceTorchDataset
table = lancedb.connect(sys.argv[1]).open_table("points")
dataset = LanceTorchDataset(table, format="arrow", cache=False, cache_dir=sys.argv[2])
rows = list(range(999, -1, -7))
for _ in range(3):
    assert dataset[rows]["id"].to_pylist() == rows
dataset._rows.disk.wait()
assert dataset._rows.disk.is_complete
assert dataset[rows]["id"].to_pylist() == rows
assert dataset.stats()["cached_rows"] >= len(rows)
"""


@pytest.mark.few(1)
@pytest.mark.parametrize("processes", [2, 4, 8])
def test_processes_that_begin_together_write_each_part_once(
    table, cache, tmp_path, starter, processes
):
    script = tmp_path / "together.py"
    script.write_text(TOGETHER.format(path=[]))
    starter.run(script, table._conn.uri, str(cache), ranks=processes, timeout=HANGS)
    numbers = [path.name[:6] for path in cache.glob("*/*.arrow")]
    assert len(numbers) == len(set(numbers)) > 5
    assert_whole(table, cache)


# -- damage ----------------------------------------------------------------------------------


def replaced(path):
    path.write_bytes(os.urandom(5000))


def of_other_rows(path):
    other = next(each for each in path.parent.glob("*.arrow") if each != path)
    shutil.copy(other, path)


@pytest.mark.few(3)
@pytest.mark.parametrize("damage", [cut, emptied, flipped, replaced, of_other_rows])
def test_a_damaged_part_is_deleted_and_read_anew(table, cache, damage):
    fill(cached(table, cache))
    for part in sorted(cache.glob("*/*.arrow"))[2:4]:
        damage(part)
    dataset = cached(table, cache)
    with pytest.warns(UserWarning, match="a part is read from the table again"):
        assert_right(dataset)
    dataset._rows.disk.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_whole(table, cache)


def test_a_part_of_another_layout_is_not_taken(table, cache):
    fill(cached(table, cache))
    first, *_ = sorted(cache.glob("*/*.arrow"))
    whole = pa.record_batch({"other": np.arange(64)})
    entry = CacheDirectory(cache).entry(first.parent.name)
    first.unlink()
    parts.write_part(entry, 0, [whole])
    with pytest.warns(UserWarning, match="are others than those|does not have the"):
        assert_right(cached(table, cache))


def test_what_another_version_of_the_package_keeps_is_left_alone(table, cache, monkeypatch):
    from lancedb.integrations._torch.cache import cached_rows

    fill(cached(table, cache))
    monkeypatch.setattr(cached_rows, "_LAYOUT", 2)
    newer = cached(table, cache)
    fill(newer)
    assert_right(newer)
    assert len(cache_info(cache)["tables"]) == 2
    (cache / "notes.txt").write_text("of somebody else")
    clear_cache(cache)
    assert (cache / "notes.txt").exists()


# -- the disk --------------------------------------------------------------------------------

FULL = """
import sys, warnings
from lancedb.integrations._torch.cache import cached_rows
cached_rows._PART_BYTES = 8000
import lancedb
from lancedb.integrations.torch import LanceTorchDataset
table = lancedb.connect(sys.argv[1]).open_table("points")
dataset = LanceTorchDataset(
    table, format="arrow", cache=False, cache_dir=sys.argv[2], cache_bytes="1GB"
)
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    for _ in range(3):
        assert dataset[:]["id"].to_pylist() == list(range(1000))
        dataset._rows.disk.fill(again=True)
        dataset._rows.disk.wait()
print([str(each.message) for each in seen])
"""


def full_script(tmp_path, before=""):
    script = tmp_path / "full.py"
    script.write_text(before + FULL)
    return script


@pytest.mark.soak
def test_a_full_disk_is_said_once_and_what_fits_is_used(table, cache, tmp_path):
    mounted = f"mount -t tmpfs -o size=64k none {cache} && exec"
    cache.mkdir()
    command = f"{mounted} {sys.executable} {full_script(tmp_path)} {table._conn.uri} {cache}"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True, timeout=HANGS
    )
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        return  # not permitted here: the test below has another limit
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the disk is full") == 1


def test_a_limit_on_files_is_as_a_full_disk(table, cache, tmp_path, starter):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
    said = starter.run(full_script(tmp_path, limit), table._conn.uri, str(cache), timeout=HANGS)
    assert said.count("the disk is full") == 1
    assert list(cache.glob("*/*.arrow")) == list(cache.glob("*/*.unfinished")) == []


def test_a_directory_that_cannot_be_made_is_said_once(table, tmp_path):
    (tmp_path / "file").write_text("in the way")
    dataset = cached(table, tmp_path / "file" / "cache")
    with pytest.warns(UserWarning, match="rows are not cached: .*Not a directory"):
        assert_right(dataset)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_right(dataset)


def test_a_limit_below_one_part_caches_nothing(table, cache):
    dataset = cached(table, cache, cache_bytes=500)
    with pytest.warns(UserWarning, match="not one part of .* fits"):
        fill(dataset)
    assert_right(dataset)
    assert list(cache.glob("*/*.arrow")) == []


def test_locks_that_lock_nobody_out_are_not_used(table, cache, monkeypatch):
    monkeypatch.setattr(locks.fcntl, "flock", lambda file, how: None)
    dataset = cached(table, cache)
    with pytest.warns(UserWarning, match="lets two processes take the same lock"):
        assert_right(dataset)
    assert list(cache.glob("*/*.arrow")) == []


def test_locks_that_are_refused_are_not_used(table, cache, monkeypatch):
    def refused(file, how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refused)
    with pytest.warns(UserWarning, match="No locks available"):
        assert_right(cached(table, cache))


# -- while it is used ------------------------------------------------------------------------


@pytest.mark.parametrize("delete", [clear_cache, shutil.rmtree])
def test_a_cache_deleted_in_use_leaves_right_rows(table, cache, delete):
    dataset = cached(table, cache)
    fill(dataset)
    assert dataset[ROWS[:2]]["id"].to_pylist() == ROWS[:2]  # two parts are mapped
    delete(cache)
    assert_right(dataset)
    dataset._rows.disk._looked = -np.inf
    assert_right(dataset)
    assert_whole(table, cache)


@pytest.mark.parametrize("now", [0, 4_000_000_000], ids=["1970", "2096"])
def test_clocks_may_say_what_they_like(table, cache, monkeypatch, now):
    fill(cached(table, cache))
    for path in cache.rglob("*"):
        os.utime(path, (now, now))
    dataset = cached(table, cache)
    assert_right(dataset)
    assert dataset.stats()["cached_rows"] > 0
    other = lancedb.connect(Path(table._conn.uri)).create_table("other", rows_of(300))
    size = cache_info(cache)["bytes"]
    del dataset
    small = cached(other, cache, cache_bytes=size)
    fill(small)
    assert small._rows.disk.is_complete
    assert cache_info(cache)["bytes"] <= size


def test_what_is_in_use_is_not_deleted_for_others(table, cache):
    dataset = cached(table, cache)
    fill(dataset)
    size = cache_info(cache)["bytes"]
    other = lancedb.connect(Path(table._conn.uri)).create_table("other", rows_of(1000, 5000))
    with pytest.warns(UserWarning, match="not one part"):
        fill(cached(other, cache, cache_bytes=size + 100))
    assert_right(dataset)
    assert dataset._rows.disk.is_complete
    assert directory.CacheDirectory(cache).entry(dataset._rows.disk._rows.key).is_used()
