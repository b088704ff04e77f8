# SPDX-License-Identifier: Apache-2.0
"""The state of an epoch as data: made, read back, refused if it is of something else.

A state is a position in one order of rows, with all that the order depends on. It is plain JSON,
the same on every rank, and loading one runs no code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ..common.checks import is_whole, shown, whole_number

FORMAT_VERSION = 3
# The order's own parameters follow the state; everything else must be what it was.
ADOPTED = ("block_rows", "window_rows", "lanes", "chunk")
# What stands in a state only where it is used.
OPTIONAL = ("sample_weights", "balance_by", "batching")
_MOST = 2**62
# No table has as many rows, and products of two of the layout's numbers stay below 2**63.
_MOST_IN_LAYOUT = 2**50


class Position(NamedTuple):
    """How far all ranks together have come.

    Parameters
    ----------
    epoch : int
        The epoch that is under way, or comes next if `position` is 0.
    position : int
        Rows of the epoch's sequence that were delivered to all ranks.
    ended : int, optional
        The epoch before, if its last batch was the last one delivered. `position` is 0.
    """

    epoch: int = 0
    position: int = 0
    ended: int | None = None

    def end(self) -> Position:
        """The end of the epoch, however long it is."""
        return Position(self.epoch, _MOST)

    def settled(self) -> Position:
        """The same place; for an epoch's end the start of the next one."""
        at_end = self.position == _MOST
        return Position(self.epoch + 1, 0, self.epoch) if at_end else self


def start_of(epoch: Any, name: str = "epoch") -> Position:
    """Where an epoch begins; ValueError unless `epoch` is a whole number from 0 on."""
    if is_whole(epoch) and epoch > _MOST:
        raise ValueError(f"{name} must be a whole number up to {_MOST}, not {shown(epoch)}")
    return Position(whole_number(name, epoch, 0))


def make_state(at: Position, plan: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict for a position in the order that `plan` describes."""
    ended = {} if at.ended is None else {"ended": at.ended}
    return {
        "format_version": FORMAT_VERSION,
        "epoch": at.epoch,
        "position": at.position,
        **ended,
        "plan": dict(plan),
    }


def of_worker(state: dict[str, Any], worker: int, workers: int, steps: int) -> dict[str, Any]:
    """The state of a DataLoader worker that has made some of its own steps since a position.

    It says nothing about the other workers, and so only the same worker of as many can load it.
    """
    return {**state, "worker": {"id": worker, "of": workers, "steps": steps}}


def steps_of_worker(state: Any, worker: int, workers: int) -> int:
    """How many of its own steps this worker had made; 0 for a state of all workers together.

    Raises
    ------
    ValueError
        If the state is that of another worker, or of one of another number of workers.
    """
    theirs = state.get("worker") if isinstance(state, Mapping) else None
    if theirs is None:
        return 0
    ours = {"id": worker, "of": workers}
    if not isinstance(theirs, Mapping) or any(_differs(theirs.get(n), ours[n]) for n in ours):
        raise ValueError(
            f"this state is of one worker ({shown(theirs)}) and this is worker {worker} of "
            f"{workers}: take states of LanceDataLoader to change the number of workers"
        )
    return whole(theirs, "steps", 0, _MOST)


def read_state(state: Any, plan: Mapping[str, Any]) -> tuple[Position, dict[str, int]]:
    """The position that a state dict holds, and the layout that its order was made with.

    Parameters
    ----------
    state : dict
        What `make_state` made, possibly through JSON.
    plan : mapping
        This dataset's own description of its order.

    Raises
    ------
    TypeError
        If `state` is no state dict.
    ValueError
        If it is of a newer format, damaged, or belongs to other data or another order; every
        field that differs is named.
    """
    theirs = open_state(state)
    if isinstance(theirs.get("sources"), Mapping):
        refuse(["it is of a mixture, and this is one table"])
    refuse(differences(theirs, plan))
    # Of batches there may be more than rows.
    at = place_in(state, _MOST_IN_LAYOUT if "batching" in plan else int(plan["rows"]))
    return at, {name: whole(theirs, name, 1, _MOST_IN_LAYOUT) for name in ADOPTED}


def refuse_allowances(allow: Iterable[str]) -> None:
    """Raise where one table's state is to be loaded in spite of something."""
    if allowances(allow):
        raise ValueError(f"allow={allow!r} is for mixtures: one table has no weights")


def allowances(allow: Any) -> set[str]:
    """What a state may differ in, checked.

    Raises
    ------
    TypeError
        If it is no collection of names.
    ValueError
        If it has another name than ``"weights"``.
    """
    if isinstance(allow, str) or not isinstance(allow, Iterable):
        raise TypeError(f'allow must be a set, as {{"weights"}}, not {allow!r}')
    allowed = set(allow)
    if not allowed <= {"weights"}:
        raise ValueError(f'allow may hold "weights" alone, not {sorted(map(str, allowed))}')
    return allowed


def open_state(state: Any) -> Mapping[str, Any]:
    """The plan in a state dict; raises as `read_state` if there is none that this release reads."""
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a dict from state_dict(), not {type(state).__name__}")
    missing = [key for key in ("format_version", "epoch", "position", "plan") if key not in state]
    if missing:
        raise ValueError(f"state lacks {', '.join(missing)}: it is no state of this loader")
    if _differs(state["format_version"], FORMAT_VERSION):
        raise ValueError(
            f"state has format_version {shown(state['format_version'])}, and this version of "
            f"lancedb-torch reads {FORMAT_VERSION}; load it with the version that wrote it"
        )
    theirs = state["plan"]
    if not isinstance(theirs, Mapping):
        raise ValueError(f"state's plan must be a dict, not {type(theirs).__name__}")
    return theirs


def place_in(state: Mapping[str, Any], rows: int | None) -> Position:
    """Where a state was taken, in epochs of so many rows, or of any number."""
    position = whole(state, "position", 0, _MOST if rows is None else rows)
    epoch = whole(state, "epoch", 0, _MOST)
    return Position(epoch, position, _ended(state, epoch, position))


def _ended(state: Mapping[str, Any], epoch: int, position: int) -> int | None:
    """The epoch that has just ended; None in states of older releases, and within an epoch."""
    if state.get("ended") is None:
        return None
    ended = whole(state, "ended", 0, _MOST)
    return ended if (epoch, position) == (ended + 1, 0) else None


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], of: str = "") -> list[str]:
    """What of a state's plan is not what it is here, in words; its layout may be any."""
    found = [
        f"{name} {of}was {shown(theirs.get(name, '(missing)'))} and is {ours[name]!r}"
        for name in ours
        if name not in ADOPTED and (name not in theirs or _differs(theirs[name], ours[name]))
    ]
    found += [
        f"{name} {of}was {shown(theirs[name])}"
        for name in OPTIONAL
        if name not in ours and name in theirs
    ]
    return found


def refuse(found: list[str]) -> None:
    """Raise a ValueError that names each difference, if there is any."""
    if found:
        raise ValueError(
            "this state belongs to other data or another order: "
            + "; ".join(found)
            + ". Make the dataset with the arguments it had (version= pins the table's version)."
        )


def whole(values: Mapping[str, Any], name: str, low: int, high: int) -> int:
    """A whole number of a state; ValueError if it is none, or out of range."""
    return whole_number(f"state is damaged: {name}", values.get(name), low, high)


def _differs(value: Any, own: Any) -> bool:
    """Whether `value` is not `own`; one of another type, such as a tensor, is not compared."""
    return type(value) is not type(own) or value != own
