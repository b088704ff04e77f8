# SPDX-License-Identifier: Apache-2.0
"""The layout of a mixture: its sources in sequence, their weights, and how each is read.

It is all that the order depends on beside the data, and stands in a state. Who loads one goes on
with it, so that neither another number of ranks nor another batch size nor a new source moves what
the others deliver.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from .chairman import whole_weights
from .layout import BLOCK_BYTES, LEAST_BLOCK_ROWS, Layout, auto_layout
from .mixture import Change
from .shards import canonical_shards
from .state import Position, differences, open_state, place_in, refuse, whole

WEIGHTS = "weights"
_LAYOUT = ("block_rows", "window_rows", "lanes", "chunk")
_MOST_IN_LAYOUT = 2**50


class SourceSize(NamedTuple):
    """What the layout of a source follows from."""

    rows: int
    row_bytes: int
    shuffle: str


@dataclass(frozen=True)
class MixedLayout:
    """The sources of a mixture by name, and how each is read.

    Parameters
    ----------
    shards : int
        Canonical shards.
    names : tuple of str
        The sources; their numbers are the places here.
    changes : tuple of Change
        The weights.
    layouts : tuple of Layout
        Of each source.
    """

    shards: int
    names: tuple[str, ...]
    changes: tuple[Change, ...]
    layouts: tuple[Layout, ...]

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "shards": self.shards,
            "names": list(self.names),
            "changes": [[change.row, list(change.weights)] for change in self.changes],
            "layouts": [list(dataclasses.astuple(layout)) for layout in self.layouts],
        }

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> MixedLayout:
        """Out of plain data."""
        changes = (Change(row, tuple(weights)) for row, weights in data["changes"])
        layouts = (Layout(*numbers) for numbers in data["layouts"])
        return cls(data["shards"], tuple(data["names"]), tuple(changes), tuple(layouts))

    def weights_in_words(self) -> str:
        """The weights, and from which row of the mixture on they apply."""
        return "; ".join(
            f"{by_name} from row {row} of the mixture on" for row, by_name in self.weights_as_json()
        )

    def weights_as_json(self) -> list[Any]:
        """The weights by row and name, without those of 0."""
        return [
            [change.row, {n: w for n, w in zip(self.names, change.weights, strict=True) if w}]
            for change in self.changes
        ]


def mixed_layout(
    names: Sequence[str],
    sizes: Sequence[SourceSize],
    schedule: Sequence[tuple[int, Mapping[str, float]]],
    global_batch: int,
    shards: int | None = None,
    known: Mapping[str, Layout] | None = None,
    whole_steps: bool = False,
) -> MixedLayout:
    """The layout of a mixture that is new, or new but for some sources.

    Parameters
    ----------
    names, sizes : sequence
        Of the sources.
    schedule : sequence of (int, mapping)
        Weights by name, each from a row on.
    global_batch : int
        Rows of a step over all ranks.
    shards : int, optional
        As a state says; by default the canonical ones.
    known : mapping of str to Layout, optional
        Those that a state says.
    whole_steps : bool, optional
        Whether each step is of one source.
    """
    shards = canonical_shards(global_batch) if shards is None else shards
    changes = tuple(Change(row, _whole_of(names, weights)) for row, weights in schedule)
    most = [0.0] * len(names)
    for _, weights in changes:
        most = [max(m, w / sum(weights)) for m, w in zip(most, weights, strict=True)]
    shares = [share / sum(most) for share in most]
    row_bytes = [size.row_bytes for size in sizes]
    total = sum(share * size for share, size in zip(shares, row_bytes, strict=True))
    layouts = []
    for name, size, share in zip(names, sizes, shares, strict=True):
        if known and name in known:
            layouts.append(known[name])
        elif size.shuffle == "block":
            of_step = 1 if whole_steps else share
            rows = max(1, round(global_batch * of_step / shards)) * shards
            of_bytes = max(share * size.row_bytes / total, 1 / 65_536)
            layouts.append(auto_layout(*size[:2], rows, "block", share=of_bytes, shards=shards))
        else:
            chunk = 1 if size.shuffle == "global" else _chunk(size.row_bytes)
            layouts.append(Layout(1, 1, 1, chunk))
    return MixedLayout(shards, tuple(names), changes, tuple(layouts))


def _whole_of(names: Sequence[str], weights: Mapping[str, float]) -> tuple[int, ...]:
    return whole_weights([float(weights.get(name, 0)) for name in names])


def _chunk(row_bytes: int) -> int:
    """Rows of an unshuffled source that are assigned together, so that they are read together."""
    return 1 << max(0, min(LEAST_BLOCK_ROWS, BLOCK_BYTES // row_bytes).bit_length() - 1)


# -- states --------------------------------------------------------------------------------


def describe(
    layout: MixedLayout, sources: Mapping[str, Mapping[str, Any]], more: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that the order depends on, for a state."""
    return {
        **more,
        "shards": layout.shards,
        WEIGHTS: layout.weights_as_json(),
        "sources": {
            name: {**sources[name], **dataclasses.asdict(of)}
            for name, of in zip(layout.names, layout.layouts, strict=True)
        },
    }


def read_mixed_state(
    state: Any, sources: Mapping[str, Mapping[str, Any]], more: Mapping[str, Any], allow: set[str]
) -> tuple[Position, MixedLayout]:
    """The position that a state of a mixture holds, and the layout that its order was made with.

    Parameters
    ----------
    state : dict
        From `state_dict`, possibly through JSON.
    sources : mapping
        This dataset's own description of each source, but for its layout.
    more : mapping
        And of all else.
    allow : set of str
        With ``"weights"`` sources may have been added since.

    Raises
    ------
    TypeError, ValueError
        As of `read_state`; every field that differs is named.
    """
    theirs = open_state(state)
    found = differences(theirs, more)
    known = theirs.get("sources")
    if not isinstance(known, Mapping):
        found, known = ["it is of one table, and this is a mixture"], {}
    for name in known:
        if name not in sources:
            found.append(
                f"source {name!r} is missing: keep it, with a weight of 0 if it is not to come"
            )
        elif not isinstance(known[name], Mapping):
            found.append(f"source {name!r} is damaged")
        else:
            found += differences(known[name], sources[name], f"of source {name!r} ")
    added = [name for name in sources if known and name not in known]
    if added and WEIGHTS not in allow:
        names = ", ".join(map(repr, added))
        found.append(f"{names} {'is' if len(added) == 1 else 'are'} new, {_ALLOW}")
    refuse(found)
    names = tuple(known)
    layouts = tuple(
        Layout(*(whole(known[name], part, 1, _MOST_IN_LAYOUT) for part in _LAYOUT))
        for name in names
    )
    shards = whole(theirs, "shards", 1, 64)
    changes = tuple(_changes(theirs.get(WEIGHTS), names))
    return place_in(state, None), MixedLayout(shards, names, changes, layouts)


_ALLOW = 'which load_state_dict(state, allow={"weights"}) takes from here on'


def _changes(weights: Any, names: Sequence[str]) -> Iterable[Change]:
    last = -1
    if not isinstance(weights, Sequence) or not weights:
        raise ValueError("state is damaged: it has no weights")
    for entry in weights:
        if not (isinstance(entry, Sequence) and len(entry) == 2 and isinstance(entry[1], Mapping)):
            raise ValueError(f"state is damaged: weights hold {entry!r}")
        row, by_name = entry
        numbers = tuple(whole({**dict.fromkeys(names, 0), **by_name}, n, 0, 1 << 16) for n in names)
        row = whole({"weights": row}, "weights", 0, 2**62)
        if row <= last or not 0 < sum(numbers) <= 1 << 16 or (last < 0 < row):
            raise ValueError(f"state is damaged: weights hold {entry!r}")
        last = row
        yield Change(row, numbers)


def merged(loaded: MixedLayout, own: MixedLayout, row: int, allow: set[str]) -> MixedLayout:
    """The layout of a state, with this dataset's weights from a row on.

    Parameters
    ----------
    loaded : MixedLayout
        Of the state.
    own : MixedLayout
        This dataset's, with the state's sources first, and its shards and layouts.
    row : int
        Where the state was taken, counted through all epochs.
    allow : set of str
        Without ``"weights"`` the weights to come must be those of the state.

    Raises
    ------
    ValueError
        If they are not.
    """
    fill = (0,) * (len(own.names) - len(loaded.names))
    theirs = tuple(Change(change.row, change.weights + fill) for change in loaded.changes)
    ours = _from(own.changes, row)
    if _from(theirs, row) == ours:
        return dataclasses.replace(own, changes=theirs)
    if WEIGHTS not in allow:
        was = dataclasses.replace(own, changes=_from(theirs, row)).weights_in_words()
        now = dataclasses.replace(own, changes=ours).weights_in_words()
        refuse([f"weights were {was}, and are {now}, {_ALLOW}"])
    past = [change for change in theirs if change.row < row]
    if past and past[-1].weights == ours[0].weights:
        ours = ours[1:]
    return dataclasses.replace(own, changes=(*past, *ours))


def _from(changes: tuple[Change, ...], row: int) -> tuple[Change, ...]:
    """The weights in force at a row, and those that come after."""
    current = [change for change in changes if change.row <= row][-1]
    return (Change(row, current.weights), *(change for change in changes if change.row > row))
