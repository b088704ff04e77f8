# SPDX-License-Identifier: Apache-2.0
"""Batches of tokens over a mixture: documents as often as it says, alike for all who take them."""

import itertools
import json
from collections import Counter
from pathlib import Path

import lancedb
import pytest
from conftest import record_reads
from documents import BUDGET, LENGTH, PACKING, content, documents, in_turn, mixture, run
from lancedb.integrations._torch.order import layout
from lancedb.integrations.torch import LanceDataLoader, TokenBudget, cache_info
from loaders import flat, through_json
from soak import soaked
from torchrun import torchrun

SCRIPT = Path(__file__).parents[1] / "support/rank_batches.py"
KINDS = pytest.mark.parametrize("batching", [BUDGET, PACKING], ids=["budget", "packing"])
WEB, CODE = 700, 320
SHUFFLES = pytest.mark.parametrize("shuffle", [False, True, "global"])


@pytest.fixture(autouse=True)
def blocks_of_two(small_windows, monkeypatch):
    """Layouts of many small windows for documents, which are larger than other rows."""
    monkeypatch.setattr(layout, "LEAST_BLOCK_BYTES", 512)


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    """Documents of the web and of code, whose ids are distinct."""
    db = lancedb.connect(tmp_path_factory.mktemp("db"))
    db.create_table("web", documents(WEB))
    db.create_table("code", documents(WEB + CODE).slice(WEB))
    return db


def loader(db, batching, shuffle=True, workers=0, **options):
    return LanceDataLoader(mixture(db, batching, shuffle, **options), num_workers=workers)


def came(dataset):
    """How often each document comes in the next epoch: whole ones, and first pieces of others."""
    seen = Counter()
    for batch in dataset:
        ids = content(batch)
        if "cu_seqlens" in batch:
            assert [first // 100 for first in ids] == batch["id"].tolist()
            ids = [first // 100 for first in ids if first % 100 == 0]
        seen.update(ids)
        assert (batch["id"] >= WEB).long().tolist() == batch["source"].tolist()
    return seen


@pytest.mark.few(2)
@KINDS
@SHUFFLES
def test_each_document_comes_as_often_as_the_mixture_says(db, batching, shuffle):
    planned = mixture(db, batching, shuffle, drop_last=False)
    assert planned.num_rows == 992
    if shuffle is True:
        assert min(of.lanes for of in planned._layout(None).layouts) > 1
    rows = mixture(db, None, shuffle, batch_size=256, drop_last=False, ragged="list")
    for _ in range(2):
        assert came(planned) == Counter(flat(batch["id"].tolist() for batch in rows))


@KINDS
def test_sources_are_near_their_shares_in_any_stretch(db, batching):
    documents = [i >= WEB for batch in mixture(db, batching) for i in batch["id"].tolist()]
    for start in range(0, len(documents) - 600, 200):
        assert abs(sum(documents[start : start + 600]) - 180) < 60


@pytest.mark.few(1)
@SHUFFLES
def test_no_batch_is_above_its_budget_and_packed_ones_have_one_shape(db, shuffle):
    assert max(batch["tokens"].numel() for batch in mixture(db, BUDGET, shuffle)) <= BUDGET.tokens
    shapes = {tuple(batch["tokens"].shape) for batch in mixture(db, PACKING, shuffle)}
    assert shapes == {(PACKING.rows, LENGTH)}


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("batching", "shuffle"),
    [(BUDGET, False), soaked(BUDGET, True), (PACKING, True), soaked(PACKING, "global")],
    ids=["budget, none", "budget, block", "packing, block", "packing, global"],
)
def test_an_epoch_goes_on_where_a_state_was_taken_with_other_ranks(db, batching, shuffle):
    alone = loader(db, batching, shuffle)
    whole, following = run(alone), run(alone, 5)
    on_two = [loader(db, batching, shuffle, rank=rank, world_size=2) for rank in range(2)]
    done = in_turn(run(each, 9) for each in on_two)
    states = [each.state_dict() for each in on_two]
    assert states[0] == states[1]
    assert states[0]["position"] == 18
    on_four = [loader(db, batching, shuffle, rank=rank, world_size=4) for rank in range(4)]
    for each in on_four:
        each.load_state_dict(through_json(states[0]))
    done += in_turn(run(each, 3) for each in on_four)
    last = loader(db, batching, shuffle)
    last.load_state_dict(through_json(on_four[3].state_dict()))
    assert done + run(last) == whole
    assert run(last, 5) == following
    assert len(json.dumps(states[0])) < 2500


@pytest.mark.parametrize("batching", [BUDGET, soaked(PACKING)], ids=["budget", "packing"])
def test_workers_change_nothing_and_may_be_others_at_a_resume(db, batching):
    alone = loader(db, batching)
    first, second = run(alone), run(alone)
    made = loader(db, batching, workers=2)
    assert run(made, 5) == first[:5]
    state = made.state_dict()
    for each in (made, loader(db, batching)):
        each.load_state_dict(through_json(state))
        assert run(each) == first[5:]
        assert run(each) == second


@KINDS
def test_real_ranks_make_equal_steps(db, tmp_path, starter, batching):
    name = type(batching).__name__
    records = torchrun(SCRIPT, 2, Path(db.uri), tmp_path / "out", name, "mixture", starter=starter)
    made = in_turn(record["steps"] for record in records)
    # The script's processes have the layouts of small tables.
    assert len(made) > 50
    assert len({len(record["steps"]) for record in records}) == 1
    if batching is BUDGET:
        assert len(set(flat(made))) == len(flat(made))


@pytest.mark.parametrize("ranks", [2, 8])
def test_ranks_read_each_document_once(db, monkeypatch, ranks):
    loaders = [loader(db, BUDGET, rank=rank, world_size=ranks) for rank in range(ranks)]
    rows = loaders[0].dataset.num_rows
    read = record_reads(monkeypatch, lambda reader, rows: len(rows) * (len(reader.columns) > 1))
    for each in loaders:
        run(each)
    assert 0.9 * rows < sum(read) <= 1.1 * rows


def test_lengths_of_each_source_are_kept_in_its_cache(db, tmp_path):
    made = mixture(db, BUDGET, of_sources={"cache_dir": tmp_path / "cache"})
    assert content(next(iter(made))) == content(next(iter(mixture(db, BUDGET))))
    kept = [each for each in cache_info(tmp_path / "cache")["tables"] if each["cached_rows"]]
    lengths = [each["table"] for each in kept if each["columns"] == ["length"]]
    assert sorted(lengths) == ["code", "web"]


def drawing(batch, context):
    assert context.source.tolist() == batch["source"].tolist()
    assert (context.offsets + WEB * context.source).tolist() == batch["id"].tolist()
    return {**batch, "drawn": context.random()}


def drawn(dataset):
    found = Counter()
    for batch in dataset:
        keys = content(batch) if "cu_seqlens" in batch else batch["id"].tolist()
        found.update(zip(keys, batch["drawn"].tolist(), strict=True))
    return found


@pytest.mark.few(1)
@KINDS
def test_documents_draw_the_same_wherever_they_are(db, batching):
    options = {"transform": drawing, "drop_last": False}
    made = drawn(mixture(db, batching, **options))
    assert len({value for _, value in made}) == sum(made.values()) > 950
    ranks = [drawn(mixture(db, batching, rank=r, world_size=2, **options)) for r in range(2)]
    assert ranks[0] + ranks[1] == made


def test_how_far_each_source_has_come_is_known_to_within_a_group(db):
    made = loader(db, BUDGET)
    seen = 0
    for batch in itertools.islice(made, 50):
        seen += int((batch["source"] == 1).sum())
    assert abs(made.stats()["sources"]["code"]["rows"] - seen) < 64 * 8
    run(made)
    rows = {name: of["rows"] for name, of in made.stats()["sources"].items()}
    assert rows["web"] + rows["code"] > 992


def test_weights_may_change_between_epochs_alone(db):
    made = loader(db, BUDGET)
    run(made, 3)
    other = loader(db, BUDGET, weights={"web": 0.5, "code": 0.5})
    with pytest.raises(ValueError, match="weights were .* and are"):
        other.load_state_dict(made.state_dict())
    with pytest.raises(ValueError, match="weights may change where an epoch begins"):
        other.load_state_dict(made.state_dict(), allow={"weights"})
    run(made)
    made.load_state_dict(made.state_dict())
    run(made)
    other.load_state_dict(made.state_dict(), allow={"weights"})
    ids = flat(run(other))
    assert abs(sum(i >= WEB for i in ids) / len(ids) - 0.5) < 0.05


def test_a_state_of_other_batching_is_refused_by_name(db):
    state = loader(db, BUDGET).state_dict()
    with pytest.raises(ValueError, match="batching was 'TokenBudget' and is 'Packing'"):
        loader(db, PACKING).load_state_dict(state)
    by_rows = LanceDataLoader(mixture(db, None, batch_size=64, ragged="list"))
    with pytest.raises(ValueError, match="batching was 'TokenBudget'"):
        by_rows.load_state_dict(state)
    with pytest.raises(ValueError, match="batching was .*missing.* and is 'TokenBudget'"):
        loader(db, BUDGET).load_state_dict(by_rows.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 10}, r"batch_size=10 and batching=TokenBudget\(...\) both say"),
        ({"unwrap": True}, "unwrap=True is for batch_size=1"),
        ({"mix": "batches"}, 'leave mix="batches" out'),
        ({"of_sources": {"batching": BUDGET}}, "source 'web' has batching=.*leave it out"),
    ],
)
def test_what_cannot_be_is_refused_where_the_mixture_is_made(db, options, message):
    with pytest.raises(ValueError, match=message):
        mixture(db, BUDGET, **options)


def test_a_document_above_the_budget_is_named_with_its_table(db):
    small = mixture(db, TokenBudget(30, lengths="tokens"), ragged="pad")
    with pytest.raises(ValueError, match=r"row \d+ of table .*(web|code).* tokens, more than"):
        next(iter(small))
