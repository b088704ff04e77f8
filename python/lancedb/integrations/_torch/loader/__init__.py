# SPDX-License-Identifier: Apache-2.0
"""`LanceDataLoader`: epochs, what was delivered, and the state that follows from it.

::

    LanceDataLoader --> EpochIterator --> WorkerPool: torch's iterator over workers,
    options, states     counts what is    or batches of this process itself
          |             delivered
          |                   |
          +-> LoaderEpochs <--+   begins each epoch, or passes on one not taken from; meters
"""
