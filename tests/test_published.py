import csv

import faked
import pytest

from vanishing import published


def test_every_published_row_is_there():
    rows = published.load()
    assert len(rows) == 43
    assert list(rows.report.value_counts().sort_index()) == [7, 12, 5, 17, 2]


@pytest.mark.parametrize(("text", "number"), [("45.5(2)", 45.5), ("4.61", 4.61), ("1.815(3)", 1.815)])
def test_a_bracket_is_the_uncertainty_and_no_part_of_the_number(text, number):
    assert published.value(text) == number


def test_every_figure_of_the_reports_is_a_number():
    with (faked.ROOT / "src/vanishing/published.csv").open(newline="") as handle:
        for row in csv.DictReader(handle):
            for column in published.FIGURES:
                assert not row[column] or published.value(row[column]) > 0, row
