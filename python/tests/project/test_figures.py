# SPDX-License-Identifier: Apache-2.0
"""Figures of README, docs and notes are those of the results beside the benchmarks."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import figures  # noqa: E402


@pytest.mark.parametrize("page", figures.PAGES, ids=lambda path: path.name)
def test_every_table_of_a_page_is_the_one_that_the_results_give(page):
    text = page.read_text()
    assert "<!-- figures: " in text
    assert figures.filled(text, figures.of_results(figures.RESULTS)) == text


def test_a_table_that_was_changed_by_hand_is_found():
    text = figures.PAGES[0].read_text()
    changed = text.replace("<!-- end -->", "| ours | 9,999,999 | 1.0 |\n<!-- end -->")
    assert figures.filled(changed, figures.of_results(figures.RESULTS)) == text


@pytest.mark.parametrize(
    ("value", "shown"), [(1_436_924, "1,440,000"), (536_091, "536,000"), (80.4, "80"), (None, "-")]
)
def test_figures_have_three_digits(value, shown):
    assert figures.rounded(value) == shown
