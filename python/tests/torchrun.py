# SPDX-License-Identifier: Apache-2.0
"""Runs a script on some ranks, as torchrun does, and reads what each of them wrote down."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def torchrun(script: Path, ranks: int, uri: Path, out: Path, *arguments: Any) -> list[Any]:
    """Run the script as ``script uri out *arguments`` on some ranks; the record of each.

    A rank that waits for ever for another one ends with an error of its process group.
    """
    out.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"]
    command += [f"--nproc-per-node={ranks}", sys.executable, "-W", "ignore"]
    command += [script, uri, out, *arguments]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(ranks)]
