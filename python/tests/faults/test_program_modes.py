# SPDX-License-Identifier: Apache-2.0
"""A program may come from standard input, warn with errors, be optimised, isolated and debugged."""

import subprocess
import sys
from pathlib import Path

import pytest
from limits import HANGS

SCRIPT = Path(__file__).parents[1] / "support/modes_script.py"


@pytest.mark.soak
def test_every_mode_of_the_interpreter_reads_all_rows_and_a_late_thread_ends(tmp_path, table):
    modes = ["-OO", "-I", "-X", "dev", "-W", "error"]
    done = subprocess.run(
        [sys.executable, *modes, "-", str(tmp_path / "db")],
        input=SCRIPT.read_text(),
        capture_output=True,
        text=True,
        timeout=HANGS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *epochs, late = done.stdout.splitlines()
    assert epochs == ["0 1000", "0 1000", "1 1000", "1 1000"]
    assert late.startswith("late the program's main thread has ended") or late == "late 1000"
    assert "Error" not in done.stderr
