# SPDX-License-Identifier: Apache-2.0
"""lancedb-torch with a cache on disk that an epoch before has filled: ``cache_dir``.

As WebDataset, MosaicML and LitData are measured over files of their own, and Hugging Face over the
Arrow files that it makes of others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lancedb.integrations.torch import LanceDataLoader, LanceTorchDataset
from tables import fill_cache

from peers import Job, Peer, Source, Way, lance_table, row_as_state
from peers.ours import COMMON, THREADS, at, iterable, mapped, options

FORM = "lance_and_cache"


def write(source: Source, folder: Path) -> None:
    """The table, and its columns in a cache."""
    (folder / "table").mkdir()
    lance_table.write(source, folder / "table")
    job = Job(source)
    filled = LanceTorchDataset(
        **{**options(job, folder / "table"), "transform": None}, cache_dir=folder / "cache"
    )
    fill_cache(filled)


def where(job: Job) -> dict[str, Any]:
    folder = job.source.folder(FORM)
    return {"folder": folder / "table", "cache_dir": folder / "cache"}


def open_block(job: Job) -> LanceDataLoader:
    return iterable(job, "block", **where(job))


def open_global(job: Job) -> LanceDataLoader:
    return iterable(job, "global", **where(job))


def open_mapped(job: Job) -> LanceDataLoader:
    return mapped(job, **where(job))


PEER = Peer(
    package="lancedb",
    form=FORM,
    write=write,
    resume="exact, at any batch",
    ways=(
        Way(
            "ours, shuffle=True, cached on disk",
            f"as above, and `cache_dir`, filled; {COMMON}{THREADS}",
            open_block,
            row_as_state,
            lambda job, row: at(open_block(job), row),
        ),
        Way(
            'ours, shuffle="global", cached on disk',
            f"as above, and `cache_dir`, filled; {COMMON}{THREADS}",
            open_global,
            row_as_state,
            lambda job, row: at(open_global(job), row),
        ),
        Way(
            "ours, map-style, cached on disk",
            f"as above, and `cache_dir`, filled; {COMMON}",
            open_mapped,
            row_as_state,
            lambda job, row: at(open_mapped(job), row),
        ),
    ),
)
