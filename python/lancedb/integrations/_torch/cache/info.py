# SPDX-License-Identifier: Apache-2.0
"""A report on what is in a cache directory, and a function to empty it."""

from __future__ import annotations

import os
from typing import Any

from .directory import CacheDirectory, Entry, cache_settings


def cache_info(dir: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """What is in a cache directory.

    Parameters
    ----------
    dir : str or path, optional
        As `cache_dir` of the datasets. Default: ``LANCEDB_TORCH_CACHE_DIR`` of the environment.

    Returns
    -------
    dict
        ``directory``; ``bytes`` of all its files; ``tables``, a list with a dict for each choice of
        columns and rows of a table version: ``table``, ``version``, ``columns``, ``rows`` (how many
        there could be), ``cached_rows`` (how many there are), ``bytes``, and ``in_use``: whether a
        process uses it. The list is empty for a directory that does not exist.

    Raises
    ------
    TypeError, ValueError
        If no directory is named.

    Examples
    --------
    >>> import lancedb, tempfile
    >>> from lancedb.integrations.torch import LanceIterableTorchDataset, cache_info
    >>> folder = tempfile.TemporaryDirectory()
    >>> table = lancedb.connect(folder.name).create_table("points", [{"x": i} for i in range(100)])
    >>> cache = folder.name + "/cache"
    >>> dataset = LanceIterableTorchDataset(table, cache_dir=cache, cache_bytes="1GB")
    >>> sum(len(batch) for batch in dataset)
    100
    >>> sorted(cache_info(cache))
    ['bytes', 'directory', 'tables']
    >>> sorted(cache_info(folder.name + "/another")["tables"])
    []
    """
    directory = _directory(dir)
    entries = [entry for entry in directory.entries() if entry.about() or entry.size()]
    tables = [_described(entry) for entry in entries]
    return {
        "directory": str(directory.path),
        "bytes": sum(table["bytes"] for table in tables),
        "tables": tables,
    }


def clear_cache(dir: str | os.PathLike[str] | None = None) -> int:
    """Delete all rows of a cache directory, even those in use.

    Epochs in progress continue with what they have mapped, or from the table.

    Parameters
    ----------
    dir : str or path, optional
        As `cache_dir` of the datasets. Default: ``LANCEDB_TORCH_CACHE_DIR`` of the environment.

    Returns
    -------
    int
        The bytes of the files that were deleted.

    Raises
    ------
    TypeError, ValueError
        If no directory is named.
    OSError
        If something cannot be deleted.

    Examples
    --------
    >>> import tempfile
    >>> from lancedb.integrations.torch import clear_cache
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     clear_cache(folder)
    0
    """
    directory, freed = _directory(dir), 0
    for entry in directory.entries():
        size = entry.size()
        entry.delete()
        if entry.path.exists():
            raise OSError(f"{entry.path} cannot be deleted")
        freed += size
    return freed


def _directory(dir: Any) -> CacheDirectory:
    settings = cache_settings(dir, None)
    if settings is None:
        raise ValueError("no cache directory is named: pass the cache_dir of the datasets")
    return CacheDirectory(settings.directory)


def _described(entry: Entry) -> dict[str, Any]:
    about = entry.about()
    rows, part_rows = about.get("rows", 0), about.get("part_rows", 1)
    numbers = {part.number for part in entry.parts()}
    cached = sum(min(part_rows, rows - number * part_rows) for number in numbers)
    return {
        "table": about.get("table"),
        "version": about.get("version"),
        "columns": [name for name, _ in about.get("columns", [])],
        "rows": rows,
        "cached_rows": cached,
        "bytes": entry.size(),
        "in_use": entry.is_used(),
    }
