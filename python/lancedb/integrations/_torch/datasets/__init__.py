# SPDX-License-Identifier: Apache-2.0
"""The public datasets: which rows, in which order, for which rank and worker.

::

    map_style, joined   rows by index           over pinned_rows: a table's version, and what a
    lookup              rows by key or vector   process has open of it
    iterable, mixed     whole batches, shuffled and sharded (sharded), planned by tokens
                        (planned_batches), with cursor: where an epoch stands
"""
