# SPDX-License-Identifier: Apache-2.0
"""A table, a choice of its rows, and readers of them in any process.

::

    arguments --> recipe + selection --> reader --> handle
    of the user   plain data that        rows to    one open table
                  can be pickled         batches    of this process

A forked process cannot use lancedb's runtime; `fork_reader` reads for it in another process.
"""
