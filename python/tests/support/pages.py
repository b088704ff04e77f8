# SPDX-License-Identifier: Apache-2.0
"""Runs a Markdown page: its Python blocks, its commands, and the errors that it shows.

The blocks of a page share one namespace and run from top to bottom in one folder:

- a ``python`` block with a ``title`` is written to a file of that name, any other is run;
  what it prints must be what its ``# ->`` comments say, line by line;
- a ``text`` block that begins with ``SomeError: `` says what the block before it raises, a
  ``SomeWarning: `` what it warns of; ``...`` stands for any text;
- the commands of a ``console`` block are run, and must print what stands below them.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import os
import re
import shlex
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from limits import HANGS
from sybil import Document, Example, Region
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

PROGRAMS = {
    "python": [sys.executable],
    "torchrun": [sys.executable, "-m", "torch.distributed.run"],
}
# What no test runs, and why.
NOT_RUN = {
    "pip": "changes the environment; the tests of the wheel install and uninstall it",
    "make": "sets up an environment of its own; a change has to pass it as a whole",
    "git": "needs the repository's address",
}
_FENCES = RawFencedCodeBlockLexer(
    re.compile(r'(?P<language>\w*) *(?:title="(?P<title>[^"]+)")?$\n', re.MULTILINE)
)
_PRINTED = re.compile(r"^ *# -> ?(.*)$", re.MULTILINE)
_OUTCOME = re.compile(r"(\w+(?:Error|Warning)): ")
_run_python = PythonEvaluator()


@dataclass
class Page:
    """A page that is run in a folder; `raised` keeps the exceptions that it shows."""

    path: Path
    home: Path
    main: types.ModuleType = field(default_factory=lambda: types.ModuleType("__main__"))
    raised: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.document = parse(self.path)
        # As in a script, so that what the page defines can be pickled.
        self.document.namespace = self.main.__dict__

    def run(self) -> None:
        """Run every block in turn."""
        blocks = list(self.document.examples())
        for block, after in zip(blocks, [*blocks[1:], None], strict=True):
            if language_of(block) == "console":
                self._run_commands(block)
            elif language_of(block) == "python" and title_of(block):
                (self.home / title_of(block)).write_text(block.parsed)
            elif language_of(block) == "python":
                shows = after is not None and language_of(after) == "text"
                self._run_python(block, after.parsed if shows else "")

    def _run_python(self, block: Example, outcome: str) -> None:
        kind = _OUTCOME.match(outcome)
        if kind is None:
            check_prints(block)
        elif kind[1].endswith("Warning"):
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                check_prints(block)
            said = [f"{each.category.__name__}: {each.message}" for each in seen]
            assert any(_alike(each, outcome) for each in said), f"{block} warned of {said}"
        else:
            with pytest.raises(Exception) as caught:  # which one is compared below
                _run_python(block)
            said = f"{type(caught.value).__name__}: {caught.value}"
            assert _alike(said, outcome), f"{block} raised\n{said}"
            self.raised.append(caught.value)

    def _run_commands(self, block: Example) -> None:
        for command, expected in commands_of(block):
            program, *arguments = shlex.split(command)
            if program in NOT_RUN:
                continue
            done = subprocess.run(
                [*PROGRAMS[program], *arguments],
                cwd=self.home,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                timeout=HANGS,
                check=False,
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            assert not expected or _alike(done.stdout, expected), f"{command}\n{done.stdout}"


def parse(path: Path) -> Document:
    """A page with an example for each of its fenced blocks."""
    return Document.parse(str(path), _regions)


def language_of(block: Example) -> str:
    return block.region.lexemes["language"]


def title_of(block: Example) -> str | None:
    return block.region.lexemes["title"]


def commands_of(block: Example) -> Iterator[tuple[str, str]]:
    """Each command of a console block, and what stands below it."""
    for part in re.split(r"^\$ ", block.parsed, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def check_prints(block: Example) -> None:
    """Run a block; it must print what its comments say, if it prints or says anything."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        _run_python(block)
    said = [line.rstrip() for line in printed.getvalue().splitlines()]
    written = [line.rstrip() for line in _PRINTED.findall(block.parsed)]
    assert said == written, f"{block.path}:{block.line} printed {said}"


def _regions(document: Document) -> Iterator[Region]:
    for region in _FENCES(document):
        region.parsed = region.lexemes["source"]
        yield region


def _alike(said: str, written: str) -> bool:
    """Whether two texts say the same, wherever their lines break; `...` is any text."""
    pattern = re.sub(r"([\[*?])", r"[\1]", " ".join(written.split())).replace("...", "*")
    return fnmatch.fnmatchcase(" ".join(said.split()), pattern)
