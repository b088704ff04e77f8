# SPDX-License-Identifier: Apache-2.0
"""Every example in a docstring runs and gives what it says."""

import doctest
import importlib
import pkgutil

import lancedb.integrations._torch as package
import pytest

MODULES = [
    "lancedb.integrations.torch",
    *(module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")),
]
PUBLIC = ["datasets.map_style", "datasets.iterable", "loader.loader", "permutation_methods"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name):
    doctest_results = doctest.testmod(importlib.import_module(name), verbose=False)
    assert doctest_results.failed == 0


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_public_has_an_example(name):
    assert f"{package.__name__}.{name}" in MODULES
    module = importlib.import_module(f"{package.__name__}.{name}")
    assert doctest.testmod(module, verbose=False).attempted
