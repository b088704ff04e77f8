# SPDX-License-Identifier: Apache-2.0
"""Record batches made into tensors and the other formats, then transformed.

::

    record batch --> formats --> transform --> batch
                     tensors     the user's,
                     ragged      with on_error
                     nulls
"""
