# SPDX-License-Identifier: Apache-2.0
"""Ray's ``prepare_data_loader``, which asks for a batch before the one in hand is used."""

from __future__ import annotations

import sys

from .frames import self_of


def runs_ahead() -> bool:
    """Whether it is the loader of Ray's ``prepare_data_loader`` that begins to iterate a loader."""
    wrapper = self_of(sys._getframe(2), "ray.train.torch.train_loop_utils")
    return type(wrapper).__name__ == "_WrappedDataLoader"


def refuse_state_ahead() -> None:
    """Raise, as a state that Ray's loader has run past would leave a batch out.

    Raises
    ------
    RuntimeError
        Always.
    """
    raise RuntimeError(
        "Ray's prepare_data_loader() has asked for one batch more than it has delivered, so a "
        "state in mid-epoch would leave that batch out: iterate the LanceDataLoader itself, which "
        "shards rows over Ray's workers already, or use prepare_data_loader(move_to_device=False)"
    )
