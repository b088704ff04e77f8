# SPDX-License-Identifier: Apache-2.0
"""Private parts of other people's packages, read with a default.

Whatever is not there any more says nothing: a guard that looked for it lets everything pass. The
parts that are read, and that the installed versions have them, are in
``tests/frameworks/test_private_parts.py``.
"""

from __future__ import annotations

from typing import Any


def part_of(owner: Any, path: str, default: Any = None) -> Any:
    """An attribute by its dotted path; `default` where there is none on the way.

    Examples
    --------
    >>> part_of(1 + 2j, "real.is_integer")()
    True
    >>> part_of(1 + 2j, "real._no_such.part", "nothing")
    'nothing'
    """
    for name in path.split("."):
        try:
            owner = getattr(owner, name)
        except AttributeError:
            return default
    return owner
