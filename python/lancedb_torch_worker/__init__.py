# SPDX-License-Identifier: Apache-2.0
"""The entry of worker processes: what converts batches, without the imports of lancedb itself.

A worker opens no table, and ``import lancedb`` takes as long as ``import torch``. So the package
``lancedb.integrations._torch`` is loaded here under its name, and a stand-in for lancedb imports
the real one as soon as anything is asked of it, as a user's own module may do.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

_ROOT = "lancedb"
_NAME = "lancedb.integrations._torch"
_NEEDED = ("common", "arrow", "convert", "workers.worker_dataset")


def restore(kind: type, state: dict[str, Any]) -> Any:
    """An object of a class of ``lancedb.integrations._torch``, as it was pickled."""
    made = kind.__new__(kind)
    made.__dict__.update(state)
    return made


class _Later(ModuleType):
    """lancedb, imported when something is asked of it.

    Python looks for the top of a dotted name with every import of what is below it, and so does
    pickle.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)  # what others look for in every module
        if sys.modules.get(_ROOT) is self:
            del sys.modules[_ROOT]
            importlib.import_module(_ROOT)
        return getattr(sys.modules[_ROOT], name)


def _load() -> None:
    """Load all that a worker needs, also what is imported only where it is used."""
    lancedb = PathFinder.find_spec(_ROOT)
    paths = (lancedb.submodule_search_locations if lancedb else None) or ()
    folders = (os.path.join(path, "integrations", "_torch") for path in paths)
    folder = next(filter(os.path.isdir, folders), None)
    if folder is None or lancedb is None:
        return  # installed in some other way: what is unpickled imports it all
    sys.modules[_ROOT] = _Later(_ROOT)
    sys.modules[_ROOT].__file__ = lancedb.origin
    _load_package(folder)
    for name in _NEEDED:
        package = importlib.import_module(f"{_NAME}.{name}")
        for path in getattr(package, "__path__", ()):
            for file in sorted(os.listdir(path)):
                if file.endswith(".py") and file != "__init__.py":
                    importlib.import_module(f"{_NAME}.{name}.{file[:-3]}")


def _load_package(folder: str) -> None:
    init = os.path.join(folder, "__init__.py")
    spec = importlib.util.spec_from_file_location(_NAME, init, submodule_search_locations=[folder])
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[_NAME] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


if _ROOT not in sys.modules:
    _load()
