# SPDX-License-Identifier: Apache-2.0
"""What all tests share; those of `order` run without torch and lancedb too, as `order` does."""

from importlib.util import find_spec

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
