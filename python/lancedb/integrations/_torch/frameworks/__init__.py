# SPDX-License-Identifier: Apache-2.0
"""Guards for other people's training loops and loaders, one module for each of them.

::

    the calling frames --> torch_loader  batches that would be batched again; which worker this is
                           lightning     which epoch it trains; a state that it loads too late
                           ray           a batch that is asked for ahead
                           row_requests  the rows that torch asks for together
    its own state      --> accelerate    batches that would be sharded a second time
    a collator         --> hugging_face  whether it makes masks

`frames` says whose method a frame runs. Everything here that is private to torch, Accelerate,
Lightning or Ray is read with a default (`private`), so that another version of theirs costs a
warning or a refusal, never a run.
"""
