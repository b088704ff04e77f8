# SPDX-License-Identifier: Apache-2.0
"""Packages import one way only, each says what is in it, and none imports torch by itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from limits import HANGS

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "python/lancedb/integrations/_torch"
MODULES = sorted(PACKAGE.rglob("*.py"))
ALONE = """
import importlib, pathlib, sys, types
tests, source = map(pathlib.Path, sys.argv[1:])
for name in ("torch", "pyarrow"):
    sys.modules[name] = None  # so that it cannot be imported
sys.modules["lancedb"] = types.ModuleType("lancedb")  # of our files alone
sys.modules["lancedb"].__path__ = [str(source)]
sys.path += [str(tests), str(tests / "support"), str(tests / "order")]
for module in ["conftest", *(path.stem for path in sorted((tests / "order").glob("test_*.py")))]:
    importlib.import_module(module)
    print(module)
"""
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


def test_an_import_the_other_way_and_one_from_outside_are_found(tmp_path):
    contracts = (ROOT / "pyproject.toml").read_text()
    upside_down = contracts.replace('    "convert",\n', "").replace(
        '    "arrow",\n', '    "arrow",\n    "convert",\n'
    )
    nobody_else = upside_down.replace('["lancedb.integrations.torch", "lanc', '["lanc')
    (tmp_path / "pyproject.toml").write_text(nobody_else)
    done = lint(tmp_path / "pyproject.toml")
    assert done.returncode == 1
    assert "lancedb.integrations._torch.convert.formats ->" in done.stdout
    assert "lancedb.integrations.torch ->" in done.stdout


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


def defined_names():
    """Names of classes, functions, arguments and attributes of the packages, and of their files."""
    names = {str(path.relative_to(PACKAGE)).replace(".py", "/py") for path in MODULES}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            names |= {getattr(node, of, None) for of in ("name", "arg", "id", "attr")}
    return names


def test_whatever_the_walk_through_the_house_names_is_there():
    written = (ROOT / "CONTRIBUTING.md").read_text()
    walk = written.partition("## The way of")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([\w./]+)[`(]", walk))
    assert len(named) > 40
    parts = {part for name in named for part in name.replace(".py", "/py").split(".")}
    assert sorted(parts - defined_names() - {f"{path.parent.name}/" for path in MODULES}) == []


def test_order_is_tested_where_there_is_neither_torch_nor_lancedb():
    command = [sys.executable, "-c", ALONE, str(ROOT / "python/tests"), str(PACKAGE.parents[1])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS, check=False)
    assert done.returncode == 0, done.stderr
    assert "test_epoch_order" in done.stdout.split()
