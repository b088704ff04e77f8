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
_NAME = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")  # of a column, or of a field of one
_AT = re.compile(r",? ?/\S+\.rs:\d+(?::\d+)?")  # where lancedb's source says so
# Words that may name a column, but only in backticks.
_RESERVED = {"exists", "false", "interval", "null", "select", "trim", "true", "with"}


def names_in_backticks(expression: str) -> str:
    """The expression with what stands in double quotes as a name, which it is in a filter."""

    def name(found: re.Match[str]) -> str:
        quoted = found.group()
        is_name = quoted.startswith('"') and "`" not in quoted
        return "`" + quoted[1:-1].replace('""', '"') + "`" if is_name else quoted

    return _QUOTED.sub(name, expression)


def as_one_expression(column: str, names: Iterable[str]) -> str:
    """`column`, so that lancedb refuses what follows its first expression: it would leave that out.

    Parameters
    ----------
    column : str
        A column's name, or an expression.
    names : iterable of str
        The columns there are.

    Raises
    ------
    ValueError
        If it closes a parenthesis that is not open.

    Examples
    --------
    >>> as_one_expression("label where id > 5", ["id", "label"])
    '(label where id > 5)'
    """
    if column in names or _NAME.fullmatch(column):
        return column
    _check_parentheses(column)
    return _in_parentheses(column)


def _in_parentheses(expression: str) -> str:
    """lancedb drops what follows the first expression; a comment ends with its line."""
    return f"({expression}\n)" if "--" in expression else f"({expression})"


def reason(error: Exception) -> str:
    """What lancedb says is wrong with an expression, without the place in its source."""
    text = _AT.sub("", str(error))
    if "Scans must request at least one column" in text:
        return (
            "it has no column in it, so that its value is the same for every row; lancedb reads it "
            "only beside a column"
        )
    return text


def _check_parentheses(expression: str) -> None:
    opened = 0
    for character in _QUOTED.sub(" ", expression):
        opened += {"(": 1, ")": -1}.get(character, 0)
        if opened < 0:
            raise ValueError("it closes a ')' too many")


def whole_condition(condition: str, names: Iterable[str]) -> str:
    """The condition for lancedb, if that will take it for what its writer meant.

    Raises
    ------
    ValueError
        If it closes a parenthesis that is not open, which would end it before its end, or
        compares the name of a column in quotes, which is a text.
    """
    try:
        _check_parentheses(condition)
    except ValueError as error:
        raise ValueError(f"filter {condition!r} cannot be evaluated: {error}") from None
    known = set(names)
    for compared in _COMPARED.finditer(condition):
        name = compared[1]
        if name in known:
            raise ValueError(
                f"filter {condition!r} compares the text '{name}', the same for every row: the "
                f"column stands in backticks, `{name}`, and only values in single quotes"
            )
    return _in_parentheses(condition)


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
