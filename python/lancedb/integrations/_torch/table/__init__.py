# SPDX-License-Identifier: Apache-2.0
"""Which table, which of its rows, and reading them in any process.

::

    arguments --> recipe + selection --> reader --> handle
    of the user   plain data that        positions  one open table
                  can be pickled         to rows    of this process

A forked process cannot use lancedb's runtime; `fork_reader` reads for it in another process.
"""
