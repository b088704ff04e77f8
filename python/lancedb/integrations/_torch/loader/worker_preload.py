# SPDX-License-Identifier: Apache-2.0
"""The module that multiprocessing's fork server imports once for all workers.

The server never reads, so that lancedb's runtime has not started there and its warning about
forked processes does not apply.
"""

import warnings

import lancedb.integrations.torch  # noqa: F401

warnings.filterwarnings("ignore", message="lancedb fork support is experimental")
