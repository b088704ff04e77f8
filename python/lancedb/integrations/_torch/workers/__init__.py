# SPDX-License-Identifier: Apache-2.0
"""Worker processes: their rank, their start, what they are sent, and how they end.

::

    EpochFeed --> BatchSlots --> WorkerDataset --> torch's queue
    one batch     memory that    converts and
    at a time     both map       transforms

`start` prepares the fork server, `ipc` sends tensors, `shared_epoch` tells workers that read for
themselves which epoch is next, `watchdog` notices the death of a worker and `parent` that of the
process it works for.
"""
