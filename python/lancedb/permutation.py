# SPDX-License-Identifier: Apache-2.0
"""A stand-in for lancedb's own ``permutation.py``, which adds to what that defines.

This file is installed as ``lancedb/permutation/__init__.py``. A package wins over a module of the
same name in the same directory, so ``import lancedb.permutation`` comes here; lancedb's file is
loaded from where it is, under its own name, and takes this module's place.
"""

import importlib.util
import pathlib
import sys

_NAME = __name__


def _load_original():
    path = pathlib.Path(__file__).parent.parent / "permutation.py"
    if not path.is_file():
        raise ImportError(
            f"lancedb-torch extends lancedb's own {path.name}, which is not in {path.parent}: "
            "reinstall lancedb (>=0.38,<0.41) beside it",
            name=_NAME,
        )
    spec = importlib.util.spec_from_file_location(_NAME, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    ours = sys.modules.get(_NAME)
    sys.modules[_NAME] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules[_NAME] = ours  # type: ignore[assignment]
        raise
    return module


def _overlay():
    module = _load_original()
    from lancedb.integrations._torch.permutation_methods import extend

    extend(module)
    return module


_overlay()
