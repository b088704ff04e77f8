# SPDX-License-Identifier: Apache-2.0
"""The order of rows in an epoch: arithmetic on integers, without torch, Arrow or lancedb.

::

    ShuffleSpec --> epoch order --> steps of ranks and workers --> read schedule
    seed, layout    position to     position to positions          which windows to read,
                    row                                            and when to drop them

`shuffle` says which order was asked for and `epoch_order` computes it; `state` is a position in it.
"""
