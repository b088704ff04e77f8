# SPDX-License-Identifier: Apache-2.0
"""Every example in a docstring runs and gives what it says."""

import doctest
import importlib
import inspect
import pkgutil
import re

import lancedb.integrations._torch as package
import pytest
from lancedb.integrations import torch as face

MODULES = [
    "lancedb.integrations.torch",
    *(module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")),
]


def examples_of(name):
    """The examples of all that is defined in a module; what is public names another as its own."""
    module, find = importlib.import_module(name), doctest.DocTestFinder().find
    public = "|".join(face.__all__)
    found = [test for test in find(module) if not re.match(rf"{name}\.({public})\b", test.name)]
    here = re.findall(rf"^(?:class|def) ({public})\b", inspect.getsource(module), re.MULTILINE)
    for each in here:
        found += find(vars(module)[each], each, module=False, globs=vars(module))
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of(name):
    runner = doctest.DocTestRunner(verbose=False)
    for test in examples_of(name):
        runner.run(test)
    assert runner.failures == 0


@pytest.mark.parametrize("name", face.__all__)
def test_what_is_public_has_an_example(name):
    assert any(name in {test.name.partition(".")[0] for test in examples_of(m)} for m in MODULES)


def test_permutations_have_an_example():
    assert examples_of(f"{package.__name__}.permutation_methods")
