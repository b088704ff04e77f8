# SPDX-License-Identifier: Apache-2.0
"""Runs a script on some ranks, as torchrun does, and reads what each of them wrote down."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from limits import HANGS
from warm import Starter


def torchrun(
    script: Path,
    ranks: int,
    uri: Path,
    out: Path,
    *arguments: Any,
    starter: Starter | None = None,
) -> list[Any]:
    """Run the script as ``script uri out *arguments`` on some ranks; the record of each.

    With a `starter` the ranks are told what torchrun tells them, and begin with their imports done.
    A rank that waits for ever for another one ends with an error of its process group.
    """
    out.mkdir()
    arguments = tuple(map(str, (uri, out, *arguments)))
    if starter is not None:
        starter.run(script, *arguments, ranks=ranks, timeout=HANGS)
    else:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"]
        command += [f"--nproc-per-node={ranks}", sys.executable, "-W", "ignore", str(script)]
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=HANGS, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(ranks)]
