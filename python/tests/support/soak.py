# SPDX-License-Identifier: Apache-2.0
"""Parameters that only `make soak` takes, where `make test` takes others of the same test."""

from typing import Any

import pytest


def soaked(*values: Any, **options: Any):
    """A parameter, or the parameters of one case, for a soak alone."""
    return pytest.param(*values, marks=pytest.mark.soak, **options)


# Forked workers of a table read through a process of their own. Spawned ones are sent what forked
# ones of a server are, and import all anew: what that changes is tried where workers are.
FORKED = ["forkserver", soaked("fork")]
METHODS = [*FORKED, soaked("spawn")]
