# SPDX-License-Identifier: Apache-2.0
"""The public datasets: which rows, in which order, for which rank and worker.

`base` is what both share; `map_style` gives rows by index, `iterable` whole batches in an order of
its own.
"""
