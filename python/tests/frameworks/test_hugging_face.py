# SPDX-License-Identifier: Apache-2.0
"""The collators of transformers pad our lists, and take no padding of ours for tokens."""

import copy
import pickle

import lancedb
import pyarrow as pa
import pytest
from lancedb.integrations.torch import (
    LanceDataLoader,
    LanceIterableTorchDataset,
    LanceTorchDataset,
)
from torch.utils.data import DataLoader

TOKENS = [[0, 5, 6], [7], [8, 0]]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    db = lancedb.connect(tmp_path_factory.mktemp("tokens"))
    column = pa.array(TOKENS, pa.list_(pa.int32()))
    return db.create_table("tokens", pa.table({"input_ids": column}))


@pytest.fixture(scope="module")
def collator():
    """Pads with 9, as a model does in which 0 is a token."""
    from tokenizers import Tokenizer, models
    from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast

    words = models.WordLevel({"<unk>": 0, "<pad>": 9}, unk_token="<unk>")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), pad_token="<pad>")
    return DataCollatorWithPadding(tokenizer)


def mapped(table, collator, **options):
    return DataLoader(LanceTorchDataset(table, **options), 3, collate_fn=collator)


def iterable(table, collator, **options):
    dataset = LanceIterableTorchDataset(table, batch_size=3, **options)
    return LanceDataLoader(dataset, collate_fn=collator)


FORMATS = {
    "rows": (mapped, {"format": "python"}),
    "jagged": (mapped, {"format": "torch"}),
    "lists": (mapped, {"format": "torch", "ragged": "list"}),
    "iterable": (iterable, {"format": "python"}),
}


@pytest.mark.parametrize(("make", "options"), FORMATS.values(), ids=FORMATS)
def test_a_padding_collator_pads(table, collator, make, options):
    [batch] = make(table, collator, **options)
    assert batch["input_ids"].tolist() == [[0, 5, 6], [7, 9, 9], [8, 0, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]


@pytest.mark.parametrize("make", [mapped, iterable])
@pytest.mark.parametrize("ragged", ["pad", "mask"])
def test_a_padding_collator_over_padded_lists_is_refused(table, collator, make, ragged):
    with pytest.raises(ValueError, match="DataCollatorWithPadding pads 'input_ids' .*'list'"):
        list(make(table, collator, format="torch", ragged=ragged))


def test_a_padding_collator_after_a_transform_that_makes_the_mask_is_given_it(table, collator):
    dataset = LanceTorchDataset(
        table, format="torch", ragged="mask", pad_value=9, transform=with_mask
    )
    [batch] = DataLoader(dataset, 3, collate_fn=collator)
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]


def with_mask(batch):
    return {"input_ids": batch["input_ids"], "attention_mask": batch["input_ids_mask"].long()}


def test_rows_for_a_collator_are_a_list_and_still_made_when_asked_for(table):
    [rows] = DataLoader(LanceTorchDataset(table, format="torch"), 3, collate_fn=lambda rows: rows)
    assert isinstance(rows, list)
    for other in (rows, copy.copy(rows), pickle.loads(pickle.dumps(rows))):
        assert [row["input_ids"].tolist() for row in other] == TOKENS
        assert other.columns["input_ids"].is_nested
