# SPDX-License-Identifier: Apache-2.0
"""The module that multiprocessing's fork server imports once for workers that open no table."""

import gc

# A worker that looks for garbage would else write to, and so have a copy of, all that it was
# forked with.
gc.collect()
gc.freeze()
