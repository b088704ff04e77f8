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
from importlib.util import spec_from_loader
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
        if name.startswith("__"):
            raise AttributeError(name)  # what others look for in every module
        return getattr(self.real(), name)

    def real(self) -> ModuleType:
        if sys.modules.get(_ROOT) is self:
            del sys.modules[_ROOT]
            sys.meta_path[:] = [each for each in sys.meta_path if not isinstance(each, _Finder)]
            importlib.import_module(_ROOT)
        return sys.modules[_ROOT]


class _Finder:
    """Has all of lancedb imported before a part of it that is not ours is."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        top = sys.modules.get(_ROOT)
        if not isinstance(top, _Later) or not name.startswith(_ROOT + "."):
            return None
        if (name + ".").startswith(_NAME + "."):
            return None
        top.real()
        loaded = sys.modules.get(name)
        return None if loaded is None else spec_from_loader(name, _Loaded(loaded))


class _Loaded:
    """Gives Python a module that was loaded while it looked for it."""

    def __init__(self, module: ModuleType):
        self._module = module
        # Python takes a module's own spec, if it has one, and would load it once more.
        self._spec, module.__spec__ = module.__spec__, None

    def create_module(self, spec: Any) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


def _load() -> None:
    """Load all that a worker needs, also what is imported only where it is used."""
    lancedb = PathFinder.find_spec(_ROOT)
    paths = (lancedb.submodule_search_locations if lancedb else None) or ()
    folders = (os.path.join(path, "integrations", "_torch") for path in paths)
    folder = next(filter(os.path.isdir, folders), None)
    if folder is None or lancedb is None:
        return  # installed in some other way: what is unpickled imports it all
    later = sys.modules[_ROOT] = _Later(_ROOT)
    later.__file__, later.__path__ = lancedb.origin, list(paths)
    sys.meta_path.insert(0, _Finder())
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
