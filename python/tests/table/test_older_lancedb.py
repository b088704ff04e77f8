# SPDX-License-Identifier: Apache-2.0
"""The oldest lancedb that is supported, and the one after, read the same rows as the newest."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TESTS = ["python/tests/test_permutation.py", "python/tests/test_torch_integration.py"]
# Whatever starts processes of its own takes time, and lancedb may hang in those that are forked.
PART = "not worker and not child and not import and not pinned and not epochs"
SCRIPT = """
import sys, lancedb, pytest
assert lancedb.__version__ == sys.argv[1], lancedb.__version__
sys.exit(pytest.main(sys.argv[2:]))
"""


def run(*command, **options):
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, cwd=ROOT, **options
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """A wheel of the source tree."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out)
    return next(out.glob("*.whl"))


def older(version):
    """The wheel of an older lancedb, which is fetched once for each environment."""
    kept = Path(sys.prefix) / "older-lancedb" / version
    if not list(kept.glob("*.whl")):
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
        run(*pip, "download", "--no-deps", "-d", kept, f"lancedb=={version}")
    return next(kept.glob("*.whl"))


@pytest.mark.soak
@pytest.mark.parametrize("version", ["0.38.0", "0.39.0"])
def test_an_older_lancedb_gives_the_same_rows(wheel, tmp_path, version):
    for each in (older(version), wheel):  # neither has a file of the other's, see test_wheel.py
        with zipfile.ZipFile(each) as archive:
            archive.extractall(tmp_path / "front")
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "front")}
    options = ["-q", "-k", PART, "--basetemp", tmp_path / "tests"]
    run(sys.executable, "-c", SCRIPT, version, *TESTS, *options, env=env)
