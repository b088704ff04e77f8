# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments: what is taken, and what is said of everything else."""

import numpy as np
import pytest
import torch
from lancedb.integrations._torch.common.checks import did_you_mean, one_of, whole_number


@pytest.mark.parametrize("value", [3, np.int32(3), np.uint64(3)], ids=repr)
def test_a_whole_number_becomes_an_int(value):
    assert type(whole_number("n", value, 1, 3)) is int


@pytest.mark.parametrize(
    "value", [True, np.True_, 2.0, "2", None, [2], torch.tensor(2), np.array([2])], ids=str
)
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(ValueError, match="^n must be a whole number, not "):
        whole_number("n", value)


def test_bounds_are_named_with_what_else_it_may_be():
    with pytest.raises(ValueError, match="^n must be a whole number from 1 on, not 0$"):
        whole_number("n", 0, 1)
    with pytest.raises(ValueError, match="^n must be a whole number from 1 to 9, not 10$"):
        whole_number("n", 10, 1, 9)
    with pytest.raises(TypeError, match="^n must be 'auto' or a whole number from 1 on, not 0$"):
        whole_number("n", 0, 1, or_else="'auto' or ", error=TypeError)


def test_a_value_of_megabytes_is_cut_short_in_the_message():
    with pytest.raises(ValueError, match="not ") as caught:
        whole_number("n", list(range(100_000)))
    assert len(str(caught.value)) < 200


def test_one_of_gives_the_choice_itself():
    assert one_of("cache", 1, (True, False, "auto")) is True
    assert one_of("shuffle", np.True_, (False, True, "block")) is True
    assert one_of("shuffle", None, (None, "block")) is None


@pytest.mark.parametrize("value", ["byte", 3, None, [1], np.zeros(2), {}, float("nan")], ids=str)
def test_what_is_none_of_the_choices_is_refused(value):
    with pytest.raises(ValueError, match="^blobs must be one of 'bytes', 'descriptor', not "):
        one_of("blobs", value, ("bytes", "descriptor"))


def test_near_names_are_offered_else_all_up_to_a_limit():
    assert did_you_mean("lable", ["id", "label"]) == "did you mean 'label'?"
    assert did_you_mean("zzz", ["id", "label"]) == "there are 'id', 'label'"
    assert did_you_mean("zzz", []) == "there are none"
    assert did_you_mean("zzz", map(str, range(1000))).endswith("'19' and 980 more")
