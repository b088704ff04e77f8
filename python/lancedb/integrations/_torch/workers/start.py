# SPDX-License-Identifier: Apache-2.0
"""How worker processes are started, and what the fork server imports for them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from multiprocessing import forkserver
from typing import Any

from ..common.pickling import check_sendable, name_of

_PRELOAD = "lancedb.integrations._torch.loader.worker_preload"


def start_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """How a loader with these options starts its workers, unless they say so themselves.

    Raises
    ------
    TypeError
        If a function among the options cannot be sent to workers started so.
    """
    if options.get("multiprocessing_context") is not None:
        return {}
    preload_workers()
    for name in ("collate_fn", "worker_init_fn"):
        if "<" in name_of(options.get(name)):  # a lambda, or defined in a function
            check_sendable(name, options[name])
    return {"multiprocessing_context": default_start_method()}


def default_start_method() -> str:
    """``"forkserver"`` where the platform has it, else ``"spawn"``."""
    methods = multiprocessing.get_all_start_methods()
    return "forkserver" if "forkserver" in methods else "spawn"


def preload_workers() -> None:
    """Have the fork server, if it is not running yet, import what every worker needs.

    Workers then start in a fraction of a second, as they are forked off a process that has it
    all, and safely, as that process has no reader. What others asked it to import stays.
    """
    known = list(getattr(forkserver._forkserver, "_preload_modules", ["__main__"]))
    if _PRELOAD not in known:
        forkserver.set_forkserver_preload([*known, _PRELOAD])
