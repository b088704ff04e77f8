# SPDX-License-Identifier: Apache-2.0
"""Packages import one way only, each says what is in it, and none imports torch by itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from limits import HANGS

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "python/lancedb/integrations/_torch"
MODULES = sorted(PACKAGE.rglob("*.py"))
LINT = "import sys, importlinter.cli as cli; sys.exit(cli.lint_imports(sys.argv[1], no_cache=True))"


def lint(config):
    """import-linter's verdict on the packages, by the contracts in a file."""
    command = [sys.executable, "-c", LINT, str(config)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=HANGS, check=False
    )


def test_packages_import_one_way():
    done = lint(ROOT / "pyproject.toml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_import_the_other_way_is_found(tmp_path):
    contracts = (ROOT / "pyproject.toml").read_text()
    upside_down = contracts.replace('    "convert",\n', "").replace(
        '    "arrow",\n', '    "arrow",\n    "convert",\n'
    )
    (tmp_path / "pyproject.toml").write_text(upside_down)
    done = lint(tmp_path / "pyproject.toml")
    assert done.returncode == 1
    assert "lancedb.integrations._torch.convert.formats ->" in done.stdout


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_says_what_it_is(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    if path.name == "__init__.py":
        assert len(tree.body) == 1, "a package's face is a docstring, and imports nothing"


def test_contributing_lists_every_package():
    written = (ROOT / "CONTRIBUTING.md").read_text()
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages
    assert not {name for name in packages if f"| `{name}/` |" not in written}
