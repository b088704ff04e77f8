# SPDX-License-Identifier: Apache-2.0
"""Collators of Hugging Face's transformers, which pad lists of tokens themselves."""

from __future__ import annotations

from typing import Any

TOKENS, MASK = "input_ids", "attention_mask"


def makes_masks(collate_fn: Any) -> bool:
    """Whether a collator takes all the tokens that it is given for ones to attend to.

    Examples
    --------
    >>> makes_masks(list), makes_masks(None)
    (False, False)
    """
    kind = type(collate_fn)
    is_theirs = any(base.__module__.startswith("transformers.") for base in kind.__mro__)
    return is_theirs and (hasattr(collate_fn, "tokenizer") or "Flattening" in kind.__name__)
