# SPDX-License-Identifier: Apache-2.0
"""The rooms import one way only, and CONTRIBUTING.md says of each what it says of itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
ROOMS = ROOT / "python/lancedb/integrations/_torch"


@pytest.fixture
def order():
    """The rooms from the one that imports none to the one that nobody imports."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (rooms,) = (each["layers"] for each in options["contracts"] if each["id"] == "rooms")
    return rooms[::-1]


LINT = "import sys, importlinter.cli as cli; sys.exit(cli.lint_imports(sys.argv[1], no_cache=True))"


def lint(config):
    """import-linter's verdict on the rooms, by the contracts in a file."""
    command = [sys.executable, "-c", LINT, str(config)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_no_room_imports_one_above_it():
    done = lint(ROOT / "pyproject.toml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_room_that_imports_one_above_it_is_found(tmp_path):
    contracts = (ROOT / "pyproject.toml").read_text()
    below = contracts.replace('    "convert",\n', "").replace(
        '    "gather",\n', '    "gather",\n    "convert",\n'
    )
    (tmp_path / "pyproject.toml").write_text(below)
    done = lint(tmp_path / "pyproject.toml")
    assert done.returncode == 1
    assert "_torch.convert -> lancedb.integrations._torch.gather" in done.stdout


def test_contributing_says_what_each_room_says_of_itself(order):
    says = {
        path.stem: ast.get_docstring(ast.parse(path.read_text())) for path in ROOMS.glob("*.py")
    }
    rows = [f"| `{room}.py` | {says[room].splitlines()[0]} |" for room in order]
    written = (ROOT / "CONTRIBUTING.md").read_text().splitlines()
    assert [line for line in written if line.startswith("| `")] == rows
