# SPDX-License-Identifier: Apache-2.0
r"""Reading ahead: a schedule and a reader in, finished batches out.

::

    read schedule --> sources --> shuffle_buffer --> executor --> batches
                      reads under  windows of rows   converted and
                      way          that wait         transformed
                  \---------------- prefetch, in a thread ----------------/
"""
