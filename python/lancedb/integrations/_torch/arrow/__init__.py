# SPDX-License-Identifier: Apache-2.0
"""Rows of Arrow columns: taken in any order, copied once, held in memory.

`take` picks rows out of record batches. It uses `fixed_width` for columns whose rows are equally
large and `variable_width` for strings and lists; `buffer_pool` owns memory for rows that wait, and
`in_memory` holds a whole table's.
"""
