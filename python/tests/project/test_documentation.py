# SPDX-License-Identifier: Apache-2.0
"""The documentation is true: every block runs, every link leads somewhere, the site builds."""

from __future__ import annotations

import inspect
import json
import logging
import os
import re
import runpy
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import lancedb
import pytest
import s3_server
import torch
from cloud_server import CloudServer
from lancedb.integrations import torch as face
from lancedb.integrations._torch.common.process import PROCESS
from lancedb.integrations._torch.convert import collate
from lancedb.integrations._torch.loader import opentelemetry as otel
from lancedb.integrations._torch.order import epoch_order as plan
from lancedb.permutation import Permutation
from limits import HANGS
from pages import (
    NOT_RUN,
    PROGRAMS,
    Page,
    commands_of,
    language_of,
    parse,
    title_of,
)
from soak import soaked

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")])
INTERNALS = "lancedb.integrations._torch"
TROUBLESHOOTING = ROOT / "docs/troubleshooting.md"
OBJECT_STORES = ROOT / "docs/object-stores.md"
LANGUAGES = {"python", "console", "text", ""}


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """The folder that the tutorial's script makes; every other page begins with a copy of it."""
    home = tmp_path_factory.mktemp("tutorial")
    tutorial = parse(ROOT / "docs/tutorial.md")
    (script,) = (block for block in tutorial if title_of(block) == "make_table.py")
    (home / "make_table.py").write_text(script.parsed)
    before = Path.cwd()
    os.chdir(home)
    try:
        runpy.run_path("make_table.py", run_name="__main__")
    finally:
        os.chdir(before)
    return home / "data"


@pytest.fixture
def page(request, tmp_path, database, monkeypatch):
    """A page in a folder of its own, which is also where modules are imported from."""
    page = Page(request.param, tmp_path)
    if page.path.name != "tutorial.md":
        shutil.copytree(database, tmp_path / "data")
    if page.path == OBJECT_STORES:
        request.getfixturevalue("bucket")
        request.getfixturevalue("cloud")
    if page.path in (ROOT / "README.md", OBJECT_STORES):
        page.main.model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        page.main.train_step = _TrainStep(page.main.model)
    monkeypatch.setattr(
        PROCESS.part(otel.Observed), "is_instrumented", False
    )  # as in a process of the page's own
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "__main__", page.main)
    yield page
    for block in page.document:
        sys.modules.pop(Path(title_of(block) or "").stem, None)


@pytest.fixture
def bucket(database, tmp_path, monkeypatch):
    """The tutorial's table in an object store, whose address and key are in the environment."""
    digits = lancedb.connect(database).open_table("digits").to_arrow()
    with s3_server.serving() as s3:
        monkeypatch.setenv("AWS_ENDPOINT", s3.endpoint)
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret)
        monkeypatch.setenv("SECRETS", str(tmp_path))
        (tmp_path / "bucket.json").write_text(json.dumps(s3.storage_options))
        lancedb.connect("s3://tables/db").create_table("images", digits)
        names = lancedb.connect_namespace("dir", {"root": "s3://tables/names"})
        for path in (["team"], ["team", "vision"]):
            names.create_namespace(path)
        names.create_table("images", digits, namespace_path=path)
        yield


@pytest.fixture
def cloud(database, tmp_path, monkeypatch):
    """The tutorial's table behind LanceDB Cloud's API, whose address and key are known, too."""
    digits = lancedb.connect(database).open_table("digits").to_arrow()
    lancedb.connect(tmp_path / "served").create_table("images", digits)
    server = CloudServer(tmp_path / "served", "sk_tutorial")
    monkeypatch.setenv("LANCEDB_HOST", server.endpoint)
    monkeypatch.setenv("LANCEDB_API_KEY", server.api_key)
    yield
    server.stop()


class _TrainStep:
    """What pages leave to their reader."""

    def __init__(self, model):
        self.model = model
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def __call__(self, image, label):
        loss = torch.nn.functional.cross_entropy(self.model(image), label)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


def _name(path):
    return str(path.relative_to(ROOT))


RUN = [path for path in PAGES if list(parse(path)) and path != TROUBLESHOOTING]
# Pages that start whole programs, many of them on several ranks, or train for long.
LONG = {"several-gpus", "resume", "trainers", "training", "tutorial", "workers"}


@pytest.mark.parametrize(
    "page",
    [soaked(path) if path.stem in LONG else path for path in RUN],
    indirect=True,
    ids=_name,
)
def test_every_block_runs(page, caplog):
    caplog.set_level(logging.WARNING, "lancedb.integrations.torch")  # a page may silence it
    page.run()


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_every_block_is_one_that_is_run_or_plain_text(path):
    blocks = list(parse(path))
    assert {language_of(block) for block in blocks} <= LANGUAGES
    fences = re.findall(r"^\s*(```|~~~)", path.read_text(), re.MULTILINE)
    assert len(fences) == 2 * len(blocks), "a fence is open, or says more than language and title"
    for block in blocks:
        if language_of(block) == "console":
            programs = {command.split()[0] for command, _ in commands_of(block)}
            assert programs
            assert programs <= {*PROGRAMS, *NOT_RUN}


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("from-*.md")), ids=_name)
def test_code_that_is_not_run_is_python_at_least(path):
    for block in parse(path):
        if language_of(block) == "text":
            compile(block.parsed, f"{path}:{block.line}", "exec")


def test_links_of_the_pages_beside_the_code_lead_somewhere():
    contents = (ROOT / "mkdocs.yml").read_text()  # mkdocs finds out whether these are there
    pages = [path.read_text() for path in ROOT.glob("*.md")]
    links = {link for page in pages for link in re.findall(r"\]\((?!https?:)([^)#]+)", page)}
    assert links
    gone = {link for link in links if not (ROOT / link).exists()}
    assert not {link for link in gone if Path(link).name not in contents}


@pytest.mark.soak
def test_site_builds_without_a_warning_and_fetches_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=HANGS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    reference = (tmp_path / "site/api.html").read_text()
    for name in ("LanceTorchDataset", "LanceIterableTorchDataset", "LanceDataLoader", "fetch"):
        assert re.search(rf'<h2 id="[\w.]*\b{name}"', reference), name
    for built in (tmp_path / "site").glob("*.html"):
        fetched = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="https?:', built.read_text())
        assert not fetched, built.name


@pytest.mark.parametrize("page", [TROUBLESHOOTING], indirect=True, ids=_name)
def test_every_error_on_the_page_is_raised_as_it_says(page):
    page.run()
    assert page.raised


# What torch's and Accelerate's code asks of any loader.
NOT_IN_THE_REFERENCE = {"use_stateful_dataloader"}


def test_the_reference_lists_every_public_member():
    reference = (ROOT / "docs/api.md").read_text()
    entries = dict(re.findall(r"^::: (\S+)\n((?:    .*\n)*)", reference, re.MULTILINE))
    assert {name.rpartition(".")[2] for name in entries} == {*face.__all__, "RowBatch", "fetch"}
    for kind in (face.LanceTorchDataset, face.LanceIterableTorchDataset, face.LanceDataLoader):
        ours = [base for base in kind.__mro__ if base.__module__.startswith("lancedb.integrations")]
        members = {name for base in ours for name in vars(base) if not name.startswith("_")}
        listed = entries[f"lancedb.integrations.torch.{kind.__name__}"]
        shown = set(re.search(r"members: \[(.*)\]", listed)[1].split(", "))
        assert members - NOT_IN_THE_REFERENCE <= shown
        assert shown <= set(dir(kind))


PUBLIC = {
    **{name: getattr(face, name) for name in face.__all__},
    "fetch": Permutation.fetch,
    "RowBatch": collate.RowBatch,
    **{
        f"{kind.__name__}.{name}": getattr(kind, name)
        for kind in (face.LanceTorchDataset, face.LanceIterableTorchDataset, face.LanceDataLoader)
        for name in ("__getitem__", "__getitems__", "set_epoch", "load_state_dict")
        if getattr(getattr(kind, name, None), "__module__", "").startswith(INTERNALS)
    },
}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_parameter_is_in_the_docstring(name):
    takes = inspect.signature(PUBLIC[name]).parameters.values()
    stars = {inspect.Parameter.VAR_KEYWORD: "**"}
    names = {stars.get(each.kind, "") + each.name for each in takes} - {"self"}
    text = inspect.getdoc(PUBLIC[name])
    sections = re.findall(r"^(?:Other )?Parameters\n-+\n(.*?)\n\n", text, re.DOTALL | re.MULTILINE)
    heads = re.findall(r"^([\w*][^:\n]*)", "\n".join(sections), re.MULTILINE)
    assert {each.strip() for head in heads for each in head.split(",")} == names


def test_the_picture_of_the_plan_is_the_plans_own():
    pictures = [block.parsed for block in parse(ROOT / "docs/how-it-works.md")]
    drawn = textwrap.dedent(plan.__doc__.partition("epoch 0::\n")[2].partition("\nEverything")[0])
    assert drawn.strip("\n") + "\n" in pictures


def test_files_of_tests_that_are_named_are_there():
    named = {name for path in PAGES for name in re.findall(r"\btest_\w+\.py\b", path.read_text())}
    assert named
    there = {path.name for path in (ROOT / "python/tests").rglob("test_*.py")}
    assert not named - there
