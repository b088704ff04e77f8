# SPDX-License-Identifier: Apache-2.0
"""Rows cached from one read or epoch to the next, in memory or on this machine's disk.

::

    tables   all rows of a table in this process's memory, for epochs that are iterated
    columns  columns of a map-style dataset in memory, so that single rows need fewer reads
    disk     rows in files that all processes map: finds them, takes them, or says they are not here
             cached_rows (which), parts (files), filler (writes them), directory (what goes), locks
    info     what people ask of a cache directory

A reader asks `disk` for each row before the table; what needs all rows takes them from `tables`
or `disk` by one call, `take`.
"""
