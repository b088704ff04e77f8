# SPDX-License-Identifier: Apache-2.0
"""The modes of the thread that iterates, for others, and the random states that all share."""

from __future__ import annotations

import contextvars
import pickle
import random
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

_AUTOCAST_DEVICES = ("cpu", "cuda", "xpu", "mps", "hpu", "mtia")


class CallerModes:
    """What holds in the thread that makes this, to be put in force in others.

    The grad and inference modes, autocast, the default device, the current CUDA stream, and the
    context variables: each function runs in a copy of them.
    """

    def __init__(self) -> None:
        self._context = contextvars.copy_context()
        self._grad = torch.is_grad_enabled()
        self._inference = torch.is_inference_mode_enabled()
        self._autocast = {
            device: torch.get_autocast_dtype(device)
            for device in _AUTOCAST_DEVICES
            if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        }
        self._device = torch.get_default_device()
        self._stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function as the other thread would; what it sets is not seen by the next."""
        return self._context.copy().run(self._run, function, *args)

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        for device, dtype in self._autocast.items():
            torch.set_autocast_enabled(device, True)
            torch.set_autocast_dtype(device, dtype)
        # All threads share one cache of the weights that autocast has cast, with their gradients.
        torch.set_autocast_cache_enabled(False)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(self._inference))
            stack.enter_context(torch.set_grad_enabled(self._grad))
            if self._device.type != "cpu":
                stack.enter_context(self._device)
            if self._stream is not None:
                stack.enter_context(torch.cuda.stream(self._stream))
            return function(*args)


class RandomStates:
    """The random states that all threads of this process share, as they are now."""

    def __init__(self) -> None:
        self._states = {
            "torch": _generator_state(torch.default_generator),
            "numpy.random": pickle.dumps(np.random.get_state(legacy=False)),
            "random": pickle.dumps(random.getstate()),
        }
        if torch.cuda.is_initialized():
            device = torch.cuda.current_device()
            self._states["torch.cuda"] = _generator_state(torch.cuda.default_generators[device])

    def changed_since(self, before: RandomStates) -> list[str]:
        """The names of those that are others than they were."""
        return [name for name, state in before._states.items() if state != self._states[name]]


def _generator_state(generator: torch.Generator) -> bytes:
    return generator.get_state().numpy().tobytes()
