# SPDX-License-Identifier: Apache-2.0
"""Local tables are read through io_uring where the kernel permits it, and read anyway where not."""

import ctypes
import os
import subprocess
import sys

import lancedb
import pytest
from lancedb.integrations.torch import LanceTorchDataset
from limits import HANGS

IO_URING_SETUP = 425  # the same on x86-64 and arm64

READ = """
import os, sys
from lancedb.integrations.torch import LanceTorchDataset
dataset = LanceTorchDataset(uri=sys.argv[1], table_name="points", columns=["id"])
assert dataset[[7, 3, 900]] == [{"id": 7}, {"id": 3}, {"id": 900}]
threads = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
print(sum(name.startswith("lance-uring") for name in threads))
"""

# A seccomp filter such as containers have: io_uring_setup fails with EPERM, all else is allowed.
FORBIDDEN, NO_MEMORY = 0x50001, 0x5000C  # EPERM, and ENOMEM as where memory may not be locked
FORBID = f"""
import ctypes, struct
libc = ctypes.CDLL(None, use_errno=True)
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, {IO_URING_SETUP}), (0x06, 0, 0, {{error}}), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0
assert libc.syscall({IO_URING_SETUP}, 1, ctypes.create_string_buffer(120)) == -1
"""  # noqa: E501


def kernel_permits() -> bool:
    """Whether this process may make a ring; asked of the kernel itself."""
    ring = ctypes.CDLL(None).syscall(IO_URING_SETUP, 1, ctypes.create_string_buffer(120))
    if ring >= 0:
        os.close(ring)
    return ring >= 0


def expected() -> bool:
    """Whether tables are to be read through io_uring here."""
    return kernel_permits() and tuple(map(int, lancedb.__version__.split(".")[:2])) >= (0, 39)


@pytest.fixture
def ring_threads(table, tmp_path, starter):
    """How many threads with a ring a process has that has run a script."""

    def run(script: str) -> int:
        (tmp_path / "script.py").write_text(script)
        return int(starter.run(tmp_path / "script.py", table._conn.uri, timeout=HANGS))

    return run


def test_a_local_table_is_read_through_io_uring_where_the_kernel_permits(ring_threads):
    assert (ring_threads(READ) > 0) == expected()


def ring_threads_of_a_program(table, script, cwd=None) -> int:
    """The same where the interpreter is a new one, too, which has nothing to say about it."""
    command = [sys.executable, "-c", script, table._conn.uri]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "uring" not in done.stderr
    return int(done.stdout)


@pytest.mark.soak
def test_nothing_is_left_in_the_folder_that_a_program_runs_in(table, tmp_path):
    (tmp_path / "here").mkdir()
    assert (ring_threads_of_a_program(table, READ, tmp_path / "here") > 0) == expected()
    assert list((tmp_path / "here").iterdir()) == []


def test_io_uring_can_be_switched_off(ring_threads, monkeypatch):
    monkeypatch.setenv("LANCEDB_TORCH_IO_URING", "0")
    assert ring_threads(READ) == 0


@pytest.mark.soak
@pytest.mark.parametrize("error", [FORBIDDEN, NO_MEMORY])
def test_where_io_uring_is_refused_the_rows_come_the_ordinary_way(table, error):
    assert ring_threads_of_a_program(table, FORBID.replace("{error}", str(error)) + READ) == 0


@pytest.mark.parametrize("name", ["a b", "a%20b", "a#b", "a?b", "ä+ü"])
def test_odd_names_of_folders_are_the_same_tables(tmp_path, name):
    table = lancedb.connect(tmp_path / name).create_table("points", [{"id": 5}])
    dataset = LanceTorchDataset(table)
    assert dataset[[0]] == [{"id": 5}]
    assert LanceTorchDataset(uri=tmp_path / name, table_name="points")[[0]] == [{"id": 5}]
