# SPDX-License-Identifier: Apache-2.0
"""`LanceDataLoader`: epochs, what was delivered, and the state that follows from it.

::

    LanceDataLoader --> EpochIterator --> torch's iterator over workers
    options, epochs     counts what is    or this process itself
                        delivered
"""
