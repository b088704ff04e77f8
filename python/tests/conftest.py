# SPDX-License-Identifier: Apache-2.0
"""What all tests share; those of `order` run without torch and lancedb too, as `order` does."""

from collections import defaultdict
from importlib.util import find_spec

import pytest
from hypothesis import HealthCheck, settings

if find_spec("torch"):
    from fixtures import (  # noqa: F401
        db,
        record_reads,
        shrink_windows,
        small_windows,
        starter,
        table,
        wide_range,
    )
    from rows import rows_of, rows_with_nulls  # noqa: F401

# The same examples in every run. `--hypothesis-profile=search` looks for others.
COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}
settings.register_profile("search", **COMMON)
settings.register_profile("same", derandomize=True, **COMMON)
settings.load_profile("same")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Of a test marked ``few(count)``, leave all cases but so many to `make soak`."""
    cases = defaultdict(list)
    for item in items:
        if item.get_closest_marker("few") and not item.get_closest_marker("soak"):
            cases[item.path, item.originalname].append(item)
    for of_test in cases.values():
        (count,) = of_test[0].get_closest_marker("few").args
        kept = {place * len(of_test) // count for place in range(count)}
        for place, item in enumerate(of_test):
            if place not in kept:
                item.add_marker(pytest.mark.soak)
