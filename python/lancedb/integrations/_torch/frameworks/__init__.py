# SPDX-License-Identifier: Apache-2.0
"""What other people's training loops do with loaders, one module for each of them.

Everything here that is private to torch, Accelerate, Lightning or Ray is read with a default, so
that another version of theirs costs a warning or a refusal, never a run.
"""
