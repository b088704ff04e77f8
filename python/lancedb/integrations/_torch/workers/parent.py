# SPDX-License-Identifier: Apache-2.0
"""The death of the process that a worker works for, which ends the worker, too.

Workers of a fork server are children of the server, which lives as long as they do, so that they
would wait for ever for a training process that was killed.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def follow_parent() -> None:
    """Have this process end when the one that started it does."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    threading.Thread(
        target=_end_after, args=(parent.sentinel,), name="lance-parent", daemon=True
    ).start()


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
