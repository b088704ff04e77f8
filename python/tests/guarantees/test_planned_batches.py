# SPDX-License-Identifier: Apache-2.0
"""What is promised of batches holds of budgets and packing: once each, for all alike, resumed."""

import json
from dataclasses import replace
from pathlib import Path

import lancedb
import numpy as np
import pytest
from documents import (
    BUDGET,
    LENGTH,
    ORDERS,
    PACKING,
    content,
    dataset,
    documents,
    in_turn,
    lengths_of,
    run,
)
from lancedb.integrations.torch import LanceDataLoader
from loaders import flat, through_json
from soak import soaked
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader
from torchrun import torchrun

ROWS = 900
SCRIPT = Path(__file__).parents[1] / "support/rank_batches.py"
KINDS = pytest.mark.parametrize("batching", [BUDGET, PACKING], ids=["budget", "packing"])
SHUFFLES = pytest.mark.parametrize("order", list(ORDERS))


def name_of(parameter):
    """The id of a parameter in the name of a test."""
    return {BUDGET: "budget", PACKING: "packing"}.get(parameter, str(parameter))


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """900 documents in two fragments."""
    table = lancedb.connect(tmp_path_factory.mktemp("db")).create_table("docs", documents(600))
    table.add(documents(ROWS).slice(600))
    return table


def loader(table, batching, order="block", workers=0, **options):
    names = ("persistent_workers", "multiprocessing_context")
    of_loader = {name: options.pop(name) for name in names if name in options}
    made = dataset(table, batching, order, **options)
    return LanceDataLoader(made, num_workers=workers, **of_loader)


def ids(batches, batching):
    """The ids of all documents, whole ones or the first pieces of those that were split."""
    firsts = flat(batches)
    if batching is BUDGET:
        return sorted(firsts)
    return sorted(first // 100 for first in firsts if first % 100 == 0)


@pytest.mark.few(3)
@KINDS
@SHUFFLES
def test_each_document_comes_once_an_epoch_and_in_another_order_in_the_next(table, batching, order):
    made = loader(table, batching, order, drop_last=False)
    first, second = run(made), run(made)
    assert ids(first, batching) == ids(second, batching) == list(range(ROWS))
    assert (first == second) == (order == "none")
    if batching is PACKING:
        assert len(flat(first)) == int(np.ceil(lengths_of(ROWS) / LENGTH).sum())


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("order", "pad_to"),
    [("none", None), ("block", None), ("block", 8), ("one window", [4, 16, 48]), ("global", 8)],
    ids=str,
)
def test_no_batch_is_above_its_budget(table, order, pad_to):
    batches = list(loader(table, BUDGET, order, drop_last=False, pad_to=pad_to))
    assert max(batch["tokens"].numel() for batch in batches) <= BUDGET.tokens
    widths = {batch["tokens"].shape[1] for batch in batches}
    if pad_to == 8:
        assert all(width % 8 == 0 for width in widths)
    if isinstance(pad_to, list):
        assert widths <= set(pad_to)


@SHUFFLES
def test_all_packed_batches_but_the_last_have_one_shape(table, order):
    batches = list(loader(table, PACKING, order, drop_last=False))
    shapes = [tuple(batch["tokens"].shape) for batch in batches]
    assert set(shapes[:-1]) == {(PACKING.rows, LENGTH)}
    assert shapes[-1][0] <= PACKING.rows


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("batching", "order", "drop_last"),
    [
        (BUDGET, "none", True),
        (BUDGET, "block", False),
        (BUDGET, "one window", True),
        (PACKING, "block", True),
        (PACKING, "global", False),
    ],
    ids=name_of,
)
def test_resuming_at_every_batch_gives_the_rest_of_the_epoch(table, batching, order, drop_last):
    made = loader(table, batching, order, drop_last=drop_last, filter="id < 300")
    states, epoch = [made.state_dict()], []
    for batch in made:
        epoch.append(content(batch))
        states.append(made.state_dict())
    following = run(made, 2)
    resumed = loader(table, batching, order, drop_last=drop_last, filter="id < 300")
    for done in sorted({0, 1, len(epoch) // 2, len(epoch) - 1}):
        assert states[done]["position"] == done
        resumed.load_state_dict(through_json(states[done]))
        assert resumed.step == done
        assert run(resumed) == epoch[done:]
    resumed.load_state_dict(states[-1])
    assert run(resumed, 2) == following


@pytest.mark.few(1)
@pytest.mark.parametrize(("batching", "workers"), [(BUDGET, 3), (PACKING, 1)], ids=name_of)
def test_workers_change_nothing_and_may_be_others_at_a_resume(table, batching, workers):
    alone = loader(table, batching)
    first, second = run(alone), run(alone)
    made = loader(table, batching, workers=workers, persistent_workers=True)
    assert made.peek() is not None
    assert run(made, 5) == first[:5]
    state = made.state_dict()
    assert state["position"] == 5
    other = loader(table, batching)
    for each in (made, other):
        each.load_state_dict(through_json(state))
        assert run(each) == first[5:]
        assert run(each) == second


@pytest.mark.soak
@pytest.mark.parametrize(
    ("method", "batching"), [soaked("fork", BUDGET), ("spawn", PACKING)], ids=["fork", "spawn"]
)
def test_a_plain_loader_makes_the_same_batches(table, method, batching):
    expected = run(loader(table, batching))
    plain = DataLoader(
        dataset(table, batching),
        batch_size=None,
        num_workers=2,
        multiprocessing_context=method,
    )
    assert run(plain) == expected


@pytest.mark.few(1)
@KINDS
def test_torchdatas_stateful_loader_resumes(table, batching):
    def stateful():
        return StatefulDataLoader(
            dataset(table, batching),
            batch_size=None,
            num_workers=2,
            multiprocessing_context="forkserver",
        )

    first = stateful()
    batches = iter(first)
    done = [content(next(batches)) for _ in range(7)]
    state = first.state_dict()
    del batches
    second = stateful()
    second.load_state_dict(state)
    assert done + run(second) == run(loader(table, batching))


@pytest.mark.few(1)
@pytest.mark.parametrize(
    ("batching", "ranks"), [(BUDGET, 2), (BUDGET, 3), (PACKING, 3)], ids=name_of
)
def test_ranks_take_the_batches_of_one_sequence_in_turn(table, batching, ranks):
    whole = run(loader(table, batching))
    made = [run(loader(table, batching, rank=rank, world_size=ranks)) for rank in range(ranks)]
    steps = {len(each) for each in made}
    assert steps == {len(whole) // ranks}
    came = in_turn(made)
    assert came == whole[: len(came)]


@pytest.mark.parametrize(("batching", "ranks"), [(BUDGET, 3), (PACKING, 8)], ids=name_of)
def test_the_last_ones_are_dealt_evenly_where_none_is_left_out(table, batching, ranks):
    options = {"drop_last": False, "world_size": ranks}
    loaders = [loader(table, batching, rank=rank, **options) for rank in range(ranks)]
    made = [run(each) for each in loaders]
    assert len({len(each) for each in made}) == 1
    assert all(len(batch) for each in made for batch in each)
    assert ids(flat(made), batching) == list(range(ROWS))
    for each, batches in zip(loaders, made, strict=True):
        each.set_epoch(0)
        assert len(each) == len(batches)


@pytest.mark.few(1)
@KINDS
def test_other_ranks_and_workers_go_on_where_a_state_was_taken(table, batching):
    whole = run(loader(table, batching))
    on_two = [loader(table, batching, rank=rank, world_size=2) for rank in range(2)]
    done = [
        batch for step in zip(*(run(each, 9) for each in on_two), strict=True) for batch in step
    ]
    states = [each.state_dict() for each in on_two]
    assert states[0] == states[1]
    assert states[0]["position"] == 18
    on_four = [loader(table, batching, rank=rank, world_size=4) for rank in range(4)]
    for each in on_four:
        each.load_state_dict(states[0])
    done += in_turn(run(each, 3) for each in on_four)
    alone = loader(table, batching, workers=1)
    alone.load_state_dict(on_four[3].state_dict())
    assert done + run(alone) == whole


@pytest.mark.few(1)
@KINDS
def test_ranks_whose_number_divides_the_shards_read_each_block_once(table, batching):
    sizes = [
        sum(made.stats()["bytes"] for made in made_by(table, batching, ranks))
        for ranks in (1, 2, 4)
    ]
    assert max(sizes) <= 1.1 * min(sizes)


def made_by(table, batching, ranks):
    """The loaders of all ranks after an epoch, with the rows that each of them read counted."""
    loaders = [loader(table, batching, rank=rank, world_size=ranks) for rank in range(ranks)]
    for each in loaders:
        run(each)
    return loaders


@KINDS
def test_a_state_says_how_batches_were_made_and_is_refused_by_name_elsewhere(table, batching):
    made = loader(table, batching)
    run(made, 3)
    state = made.state_dict()
    assert len(json.dumps(state)) < 1000
    plain = LanceDataLoader(dataset(table, None, batch_size=10, ragged="pad"))
    with pytest.raises(ValueError, match="batching was '(TokenBudget|Packing)'"):
        plain.load_state_dict(state)
    with pytest.raises(ValueError, match=r"batching was '\(missing\)' and is"):
        made.load_state_dict(plain.state_dict())


def test_another_budget_or_padding_is_refused_by_name(table):
    state = loader(table, BUDGET).state_dict()
    with pytest.raises(ValueError, match=r"batching\.tokens was 96 and is 128"):
        loader(table, replace(BUDGET, tokens=128)).load_state_dict(state)
    with pytest.raises(ValueError, match=r"batching\.group_rows was 64 and is 32"):
        loader(table, replace(BUDGET, group_rows=32)).load_state_dict(state)
    with pytest.raises(ValueError, match=r"batching\.lengths was 'tokens' and is 'n'"):
        loader(table, replace(BUDGET, lengths="n")).load_state_dict(state)
    with pytest.raises(ValueError, match=r"batching\.pad_to was None and is 8"):
        loader(table, BUDGET, pad_to=8).load_state_dict(state)


@KINDS
def test_len_is_exact_and_the_steps_are_known_once_an_epoch_is_planned(table, batching):
    made = loader(table, batching)
    assert made.stats()["steps"] is None
    assert "step=0," in repr(made)
    assert len(made) == len(made.dataset)
    assert made.stats()["steps"] == len(made)
    assert len(run(made)) == made.stats()["step"]


@pytest.mark.few(1)
@KINDS
def test_real_ranks_make_equal_steps(table, tmp_path, starter, batching):
    name, uri = type(batching).__name__, Path(dataset(table, batching)._rows.view.recipe.source.uri)
    records = torchrun(SCRIPT, 2, uri, tmp_path / "out", name, starter=starter)
    whole = run(loader(table, batching))
    in_turn = [
        b for step in zip(*(record["steps"] for record in records), strict=True) for b in step
    ]
    assert in_turn == whole[: len(in_turn)]
    assert len(whole) - len(in_turn) < 2
