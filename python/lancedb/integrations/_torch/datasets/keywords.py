# SPDX-License-Identifier: Apache-2.0
"""Keywords that a constructor does not know: which one was meant, or whose it is."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import lancedb
from torch.utils.data import DataLoader

from ..common.checks import did_you_mean

Init = TypeVar("Init", bound=Callable[..., None])

# The arguments of each public dataset, by the names of the classes: a registry of classes, each of
# which is added where it is defined.
_DATASETS: dict[str, frozenset[str]] = {}
_OURS = __name__.partition("._torch.")[0]

# What other libraries call it.
_CALLED = {
    "where": "filter",
    "path": "uri",
    "db": "uri",
    "dataset": "table",
    "storage": "connect_kwargs",
    "output_format": "format",
    "fields": "columns",
    "select": "columns",
}
_OF_THE_LOOP = {
    "device": "batches are made on the CPU: give the loader pin_memory=True, and move them in the "
    "loop, as by batch['x'].to(device, non_blocking=True)",
    "epochs": "the loop counts them: for epoch in loader.epochs(10): for batch in loader: ...",
}


def explain_unknown(init: Init) -> Init:
    """Have a dataset's ``__init__`` say of a keyword that it does not have where it belongs.

    The signature stays what it is to editors and to `inspect`.
    """
    owner = init.__qualname__.partition(".")[0]
    names = _DATASETS[owner] = names_of(init)
    takes_table = "table" in names

    @functools.wraps(init)
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        for name in kwargs:
            if name not in names:
                raise TypeError(unexpected(owner, name, _advice(owner, name)))
        if len(args) > 1 and takes_table:
            raise TypeError(
                f"{owner}() takes one argument by position, the table, and was given {len(args)}: "
                "pass the others by name, such as uri= and table_name="
            )
        init(self, *args, **kwargs)
        vars(self)["_is_made"] = True

    return cast(Init, checked)


def refuse_to_change(dataset: Any, name: str) -> None:
    """Raise where an argument of a dataset is set later, and nothing would change.

    Subclasses of others may have attributes of these names.

    Raises
    ------
    AttributeError
        If `name` is such an argument.
    """
    kind, mine = type(dataset), vars(dataset)
    own = getattr(kind, name, None)
    can_be_set = own is not None and getattr(own, "fset", own) is not None
    is_argument = name in _DATASETS.get(kind.__name__, ()) and not can_be_set
    if is_argument and name not in mine and "_is_made" in mine:
        raise AttributeError(
            f"{name} of a {kind.__name__} cannot be changed: make another one, with {name}=",
            name=name,
            obj=dataset,
        )


def refuse_override(dataset: Any, name: str, advice: str, unless: str = "") -> None:
    """Raise where a subclass of a user overrides a method by which batches are not made.

    Parameters
    ----------
    dataset : object
        Of any class of ours, or a subclass.
    name : str
        The method.
    advice : str
        What to override, or pass, in its place.
    unless : str, optional
        The method which, if it is overridden as well, makes up for that.

    Raises
    ------
    TypeError
        If it is overridden.
    """
    kind = type(dataset)
    if _is_overridden(kind, name) and not (unless and _is_overridden(kind, unless)):
        raise TypeError(
            f"{kind.__name__} overrides {name}, which is not called to make batches: {advice}"
        )


@functools.cache  # as it is asked for each batch
def _is_overridden(kind: type, name: str) -> bool:
    owner = next(each for each in kind.__mro__ if name in vars(each))
    return not owner.__module__.startswith(_OURS)


def refuse_unknown(owner: str, options: Mapping[str, Any], own: Callable[..., Any]) -> None:
    """Raise a TypeError for what neither our loader nor torch's has, saying where it belongs."""
    torchs = names_of(DataLoader.__init__)
    for name in options:
        if torchs and name not in torchs:
            takers = _takers(name)
            advice = f"it belongs to the dataset: give it to {takers}" if takers else None
            known = sorted((torchs | names_of(own)) - {"dataset"})
            advice = advice or _OF_THE_LOOP.get(name) or did_you_mean(name, known)
            raise TypeError(unexpected(owner, name, advice))


def names_of(function: Callable[..., Any]) -> frozenset[str]:
    """The parameters of a function that have a name."""
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    parameters = inspect.signature(function).parameters.values()
    return frozenset(each.name for each in parameters if each.kind not in variable) - {"self"}


def unexpected(owner: str, name: str, advice: str) -> str:
    """Python's own words for it, and what to do."""
    return f"{owner}() got an unexpected keyword argument {name!r}: {advice}"


def _advice(owner: str, name: str) -> str:
    loaders = name in names_of(DataLoader.__init__) - {"dataset"} or name == "seed"
    takers = _takers(name)
    if takers:
        of_loader = ", or of LanceDataLoader(dataset, ...)" if loaders else ""
        return f"it is an argument of {takers}{of_loader}"
    if loaders:
        return f"it belongs to the loader: LanceDataLoader(dataset, {name}=...)"
    if name in names_of(lancedb.connect):
        opened = f"the table with lancedb.connect(uri, {name}=...).open_table(name)"
        if "connect_kwargs" not in _DATASETS[owner]:
            return f"open each source's {opened.removeprefix('the ')}"
        given = f'pass connect_kwargs={{"{name}": ...}} together with uri= and table_name='
        return f"{given}; or open {opened}, and pass that"
    if name in _OF_THE_LOOP:
        return _OF_THE_LOOP[name]
    if _CALLED.get(name) in _DATASETS[owner]:
        return f"did you mean {_CALLED[name]!r}?"
    return did_you_mean(name, sorted(_DATASETS[owner]), f"help({owner}) says which there are")


def _takers(name: str) -> str:
    """The public datasets that have an argument, in words; those over one table, if they do."""
    takers = sorted((each for each in _DATASETS if name in _DATASETS[each]), key=len)
    of_rows = [each for each in takers if {"table", "split"} <= _DATASETS[each]]
    return " or ".join(of_rows or takers)
