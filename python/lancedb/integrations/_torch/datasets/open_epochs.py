# SPDX-License-Identifier: Apache-2.0
"""Epochs that nobody has iterated to their end when the interpreter exits."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Generator


class OpenEpochs:
    """Those of this process.

    Modules are emptied in an order that depends on who has imported what; an epoch that ends after
    that finds nothing that it would end itself by.
    """

    def __init__(self) -> None:
        self.batches: weakref.WeakSet[Generator[object, None, None]] = weakref.WeakSet()

    def at_exit(self) -> None:
        """End them while it can be done."""
        for batches in list(self.batches):
            with contextlib.suppress(ValueError):  # another thread is waiting for a batch of it
                batches.close()
