# SPDX-License-Identifier: Apache-2.0
"""Every example in a docstring runs and gives what it says."""

import doctest
import importlib
import pkgutil

import lancedb.integrations._torch as rooms
import pytest

MODULES = [
    "lancedb.integrations.torch",
    *(f"{rooms.__name__}.{module.name}" for module in pkgutil.iter_modules(rooms.__path__)),
]
PUBLIC = ["mapped", "iterable", "loader", "extend"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name):
    module = importlib.import_module(name)
    failed, tried = doctest.testmod(module, verbose=False)
    assert failed == 0
    assert tried or name.rpartition(".")[2] not in PUBLIC
