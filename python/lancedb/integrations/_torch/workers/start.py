# SPDX-License-Identifier: Apache-2.0
"""The start of worker processes: its method, what is imported before, and what they do first."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping
from multiprocessing import forkserver
from types import ModuleType
from typing import Any

from ..common.pickling import check_sendable, name_of
from ..common.process import PROCESS
from ..frameworks.private import part_of
from .ipc import send_small_tensors_whole
from .parent import follow_parent
from .signals import outlive_spared_signals

_READS = "lancedb.integrations._torch.loader.worker_preload"
_CONVERTS = "lancedb_torch_worker.preload"


class WorkerHere:
    """Whether this process was made a worker of ours."""

    is_begun = False

    def in_child(self) -> None:
        """A process that it forks is none yet."""
        self.is_begun = False


def start_options(options: Mapping[str, Any], *, opens_tables: bool) -> dict[str, Any]:
    """The start method of a loader's workers, unless its options name one; preloads for it.

    Raises
    ------
    TypeError
        If a function among the options cannot be sent to workers started so.
    """
    if options.get("multiprocessing_context") is not None:
        return {}
    preload_workers(opens_tables=opens_tables)
    for name in ("collate_fn", "worker_init_fn"):
        if "<" in name_of(options.get(name)):  # a lambda, or defined in a function
            check_sendable(name, options[name])
    methods = multiprocessing.get_all_start_methods()
    return {"multiprocessing_context": "forkserver" if "forkserver" in methods else "spawn"}


@contextlib.contextmanager
def without_a_main_that_is_no_file() -> Iterator[None]:
    """Have processes that are started meanwhile not look for a program that came on stdin.

    Its file is called ``<stdin>``, which workers would try to run.
    """
    main = vars(sys.modules["__main__"])
    path = main.get("__file__")
    if path is None or main.get("__spec__") is not None or os.path.exists(path):
        yield
        return
    del main["__file__"]
    try:
        yield
    finally:
        main["__file__"] = path


def begin_worker() -> None:
    """Make this process a worker of ours: how it ends, and how it sends tensors; done once."""
    here = PROCESS.part(WorkerHere)
    if here.is_begun:
        return
    here.is_begun = True
    follow_parent()
    outlive_spared_signals()
    send_small_tensors_whole()


def preload_workers(*, opens_tables: bool = True) -> None:
    """Have the fork server, if it is not running yet, import what every worker needs.

    Workers then start in a fraction of a second, as they are forked off a process that has it
    all, and safely, as that process has no reader. What others asked it to import stays.

    Parameters
    ----------
    opens_tables : bool
        Whether workers read, and so need lancedb. Those that convert alone do without it, unless
        the program's main module imports it, as they then do, too.
    """
    known = list(part_of(forkserver, "_forkserver._preload_modules", ["__main__"]))
    wanted = [_CONVERTS]
    if opens_tables or _main_imports_lancedb():
        wanted.insert(0, _READS)
    new = [name for name in wanted if name not in known]
    if new:
        forkserver.set_forkserver_preload([*known, *new])


def _main_imports_lancedb() -> bool:
    """Whether some name of the main module is lancedb's, or that of something in it."""
    main = vars(sys.modules["__main__"])
    if "__file__" not in main and main.get("__spec__") is None:
        return False  # workers do not import it
    owners = (
        getattr(each, "__name__" if isinstance(each, ModuleType) else "__module__", None)
        for each in list(main.values())
    )
    return any(isinstance(owner, str) and owner.split(".")[0] == "lancedb" for owner in owners)
