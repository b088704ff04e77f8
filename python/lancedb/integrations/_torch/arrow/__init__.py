# SPDX-License-Identifier: Apache-2.0
"""Rows of Arrow columns: taken in any order, copied once, cached in memory.

::

    record batch --> take: rows of each column --> record batch
                     fixed_width     of one width, copied as bytes
                     variable_width  strings and lists, put in order as views, then copied
                     dictionaries    codes, beside their dictionary

    in memory        buffer_pool, for windows; in_memory, for a table; pieces, a column in parts
    added columns    origins: where rows come from; documents: how they are packed;
                     late, large_rows: what they still lack

`stream` makes bytes of a record batch, to be sent or shared.
"""
