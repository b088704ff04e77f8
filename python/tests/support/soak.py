# SPDX-License-Identifier: Apache-2.0
"""Parameters that only `make soak` takes, where `make test` takes others of the same test."""

from typing import Any

import pytest


def soaked(*values: Any, **options: Any):
    """A parameter, or the parameters of one case, for a soak alone."""
    return pytest.param(*values, marks=pytest.mark.soak, **options)


# Forked workers of a table read through a process of their own, and spawned ones import all anew.
METHODS = ["forkserver", soaked("fork"), soaked("spawn")]
