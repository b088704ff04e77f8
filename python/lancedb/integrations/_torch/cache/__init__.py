# SPDX-License-Identifier: Apache-2.0
"""Rows that are kept from one read or epoch to the next.

`tables` keeps all rows of a table, for epochs that are iterated; `columns` keeps columns of a
map-style dataset, so that single rows need fewer reads.
"""
