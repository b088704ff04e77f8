# SPDX-License-Identifier: Apache-2.0
"""A signal that the program handles, sent to all of its processes, ends none of its workers."""

import subprocess
import sys
import textwrap

import pytest
from limits import HANGS

PROGRAM = """
import os, signal, sys
import lancedb
from lancedb.integrations.torch import (
    LanceDataLoader, LanceIterableTorchDataset, LanceTorchDataset
)

def main():
    heard = []
    for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGXCPU", "SIGQUIT"):
        signal.signal(getattr(signal, name), lambda number, frame: heard.append(number))
    table = lancedb.connect("memory://").create_table("t", [{"id": n} for n in range(64)])
    if sys.argv[1] == "iterable":
        loader = LanceDataLoader(LanceIterableTorchDataset(table, batch_size=4), num_workers=2)
    else:
        loader = LanceDataLoader(LanceTorchDataset(table), batch_size=4, num_workers=2)
    for number, batch in enumerate(loader):
        if number == 3:
            for name in ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGXCPU", "SIGQUIT"):
                os.killpg(0, getattr(signal, name))
    print(number + 1, len(set(heard)) == 5)

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
