# SPDX-License-Identifier: Apache-2.0
"""SQL expressions as users write them: names, text and parentheses.

lancedb takes double quotes for a name in a filter, and for text in an expression that makes a
column. Here they are a name in both, as in SQL.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# Text, quoted names and comments, in which a parenthesis is a character.
_QUOTED = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|--[^\n]*|/\*.*?\*/""",
    re.DOTALL,
)
_COMPARED = re.compile(
    r"""(?<!\|)(?<!\|\s)'((?:[^']|'')*)'\s*
        (?:[=!<>]=?|<>|(?:NOT\s+)?(?:I?LIKE|BETWEEN|IN\s*\()|IS\b)\s*
        (?:['\d.(+-]|NOT\b|NULL\b|TRUE\b|FALSE\b)""",
    re.IGNORECASE | re.VERBOSE,
)
# What no column can be named without backticks, of the words that one may be named by.
_RESERVED = {"exists", "false", "interval", "null", "select", "trim", "true", "with"}


def names_in_backticks(expression: str) -> str:
    """The expression with what stands in double quotes as a name, which it is in a filter."""

    def name(found: re.Match[str]) -> str:
        quoted = found.group()
        is_name = quoted.startswith('"') and "`" not in quoted
        return "`" + quoted[1:-1].replace('""', '"') + "`" if is_name else quoted

    return _QUOTED.sub(name, expression)


def check_condition(condition: str, names: Iterable[str]) -> None:
    """Raise if a condition is not the one that its writer meant, and lancedb would take it.

    Raises
    ------
    ValueError
        If it closes a parenthesis that is not open, which would end it before its end, or
        compares the name of a column in quotes, which is a text.
    """
    opened = 0
    for character in _QUOTED.sub(" ", condition):
        opened += {"(": 1, ")": -1}.get(character, 0)
        if opened < 0:
            raise ValueError(f"filter {condition!r} cannot be evaluated: it closes a ')' too many")
    known = set(names)
    for compared in _COMPARED.finditer(condition):
        name = compared[1]
        if name in known:
            raise ValueError(
                f"filter {condition!r} compares the text '{name}', the same for every row: the "
                f"column stands in backticks, `{name}`, and only values in single quotes"
            )


def how_to_quote(condition: str, names: Sequence[str]) -> str:
    """What may be wrong with the quotes of a condition that cannot be evaluated, or nothing."""
    bare = _QUOTED.sub(" ", condition)
    for name in names:
        unquoted = rf"(?<!\w){re.escape(name)}(?!\w)"
        special = not name.isidentifier() or name.lower() in _RESERVED
        if special and re.search(unquoted, bare, re.IGNORECASE):
            return f"the column {name!r} stands in backticks, `{name}`; "
    lowered = {name.lower() for name in names}
    for quoted in re.findall(r'"((?:[^"]|"")*)"', re.sub(r"'(?:[^']|'')*'", " ", condition)):
        if quoted.partition(".")[0].lower() not in lowered:
            return f"text stands in single quotes, '{quoted}', and in double quotes is a name; "
    return ""
