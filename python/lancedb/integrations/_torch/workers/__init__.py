# SPDX-License-Identifier: Apache-2.0
"""Worker processes: their rank, their start, what they send, and how they end.

`start` prepares the fork server, `ipc` sends tensors, `shared_epoch` tells workers which epoch is
next, `watchdog` notices the death of a worker and `parent` that of the process it works for.
"""
