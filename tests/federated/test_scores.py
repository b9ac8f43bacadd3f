import pytest

from monai_kd.federated.scores import COLUMNS, read_scores, show_scores, with_means, write_scores


def row(number, site, cases, site_score, global_score):
    return dict(zip(COLUMNS, (number, site, cases, cases, site_score, global_score)))


ROWS = [
    row(0, "a", 3, None, 0.25),
    row(0, "b", 1, None, 0.5),
    row(1, "a", 3, 0.5, None),
    row(1, "b", 1, 0.75, None),
]


def test_the_mean_counts_each_validation_case_once():
    means = [row for row in with_means(ROWS) if row["site"] == "all"]
    assert means == [row(0, "all", 4, None, 0.3125), row(1, "all", 4, 0.5625, None)]


def test_what_is_written_is_read(tmp_path):
    write_scores(tmp_path / "rounds.csv", ROWS)
    assert read_scores(tmp_path / "rounds.csv") == with_means(ROWS)


def test_without_validation_cases_there_is_no_mean():
    assert with_means([row(1, "a", 0, 0.5, 0.5)])[-1] == row(1, "all", 0, None, None)


def test_a_score_that_is_not_a_number_is_not_hidden():
    assert with_means([row(1, "a", 1, float("nan"), 0.5)])[-1]["site_score"] != pytest.approx(0.5)


def test_the_table_is_shown_in_columns(tmp_path):
    write_scores(tmp_path / "rounds.csv", ROWS)
    lines = show_scores(tmp_path / "rounds.csv").splitlines()
    assert lines[0].split() == list(COLUMNS)
    assert [line.split() for line in lines[1:3]] == [
        ["0", "a", "3", "3", "-", "0.25"],
        ["0", "b", "1", "1", "-", "0.5"],
    ]
    assert len({len(line) for line in lines}) == 1
