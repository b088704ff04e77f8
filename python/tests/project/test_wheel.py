# SPDX-License-Identifier: Apache-2.0
"""The wheel drops into lancedb without owning any of its files, and leaves without a trace."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LISTS = json.loads((Path(__file__).parents[1] / "support/lancedb_files.json").read_text())
OURS = [
    "lancedb/permutation/__init__.py",
    "lancedb/permutation/__init__.pyi",
    "lancedb_torch_worker/__init__.py",
    "lancedb_torch_worker/preload.py",
]

SCRIPT = """
import multiprocessing, sys
import lancedb
from lancedb.permutation import Permutation

def fetch(permutation, queue):
    queue.put([row["x"] for row in permutation.fetch([2, 0, -1, 2])])

if __name__ == "__main__":
    table = lancedb.connect(sys.argv[1]).create_table("t", [{"x": x} for x in range(5)])
    permutation = Permutation.identity(table)
    for method in sys.argv[2:]:
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        child = context.Process(target=fetch, args=(permutation, queue))
        child.start()
        assert queue.get(timeout=600) == [2, 0, 4, 2], method
        child.join()
    assert [row["x"] for row in permutation.fetch([2, 0, -1, 2])] == [2, 0, 4, 2]
    from lancedb.integrations.torch import LanceTorchDataset
    assert LanceTorchDataset(table)[1] == [{"x": 1}]
    print(Permutation.__module__, lancedb.__file__)
"""


def run(*command, **options):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A wheel of the source tree, its sdist, and the wheel that the sdist builds."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-d", out, cwd=ROOT)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(
            out / "unpacked", **({"filter": "data"} if sys.version_info >= (3, 12) else {})
        )
    (source,) = (out / "unpacked").iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out / "again", cwd=source)
    return wheel, sdist, next((out / "again").glob("*.whl"))


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_has_what_the_contract_says(built):
    names = [name for name in contents(built[0]) if ".dist-info/" not in name]
    assert {*OURS, "lancedb/integrations/torch.py"} <= set(names)
    rest = set(names) - {*OURS, "lancedb/integrations/torch.py"}
    assert rest
    assert all(name.startswith("lancedb/integrations/_torch/") for name in rest)
    assert "lancedb/permutation.py" not in names


@pytest.mark.parametrize("version", sorted(LISTS))
def test_no_path_of_the_wheel_is_one_of_lancedbs(built, version):
    assert not set(contents(built[0])) & set(LISTS[version])
    # Only a file of the same name is to stand beside our package.
    assert "lancedb/permutation.py" in LISTS[version]
    assert not [name for name in LISTS[version] if name.startswith("lancedb/permutation/")]


def test_the_lists_are_those_of_lancedb():
    installed = metadata.distribution("lancedb")
    files = {str(file) for file in installed.files or () if "__pycache__" not in str(file)}
    assert {f for f in files if f.startswith("lancedb/")} == set(LISTS[installed.version])


def test_the_sdist_builds_the_same_wheel(built):
    assert contents(built[0]) == contents(built[2])


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def files_of(wheel):
    """The digests of what a wheel puts into the folder of lancedb."""
    return {
        name.removeprefix("lancedb/"): hashlib.sha256(content).hexdigest()
        for name, content in contents(wheel).items()
        if name.startswith("lancedb/")
    }


@pytest.fixture
def environment(tmp_path):
    """A fresh environment with lancedb alone, and a file that lends it what lancedb needs.

    The file holds what is to be written into it: the installers must not see this environment.
    """
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env")
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    installed = metadata.distribution("lancedb")
    for file in installed.files or ():
        if str(file).startswith("lancedb") and "__pycache__" not in str(file):
            target = site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.locate(), target)
    others = str(Path(str(installed.locate_file(""))).resolve())
    return tmp_path / "env" / "bin" / "python", site / "lancedb", site / "others.pth", others


def installers(python):
    pip = [sys.executable, "-m", "pip", "--python", python]
    uv = [sys.executable, "-m", "uv", "pip"]
    return {
        "pip": (
            [*pip, "install", "-q", "--no-deps", "--no-index"],
            [*pip, "uninstall", "-q", "-y"],
        ),
        "uv": (
            [*uv, "install", "-q", "--no-deps", "--offline", "--python", python],
            [*uv, "uninstall", "-q", "--python", python],
        ),
    }


# Both install the same files, so what one has installed need not be tried in every child again.
@pytest.mark.soak
@pytest.mark.parametrize(
    ("installer", "methods"), [("pip", ["spawn", "forkserver", "fork"]), ("uv", [])]
)
def test_it_installs_works_in_children_and_uninstalls_without_a_trace(
    built, environment, tmp_path, installer, methods
):
    python, package, lent, others = environment
    before = digests(package)
    install, uninstall = installers(python)[installer]
    run(*install, built[0])
    assert digests(package) == {**before, **files_of(built[0])}
    lent.write_text(others)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    said = run(python, "-W", "ignore", script, tmp_path / "db", *methods, env=clean)
    assert said.split() == ["lancedb.permutation", str(package / "__init__.py")]
    lent.unlink()
    run(*uninstall, "lancedb-torch")
    assert digests(package) == before
    lent.write_text(others)
    code = (
        "import lancedb.permutation as module; "
        "print(hasattr(module.Permutation, 'fetch'), module.__file__)"
    )
    said = run(python, "-c", code, env=clean)
    assert said.split() == ["False", str(package / "permutation.py")]
