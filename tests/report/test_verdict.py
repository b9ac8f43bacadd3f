"""What may be said, and what may not."""

import pytest

from monai_kd.report.statistics import Difference, GapShare, PairedTest
from monai_kd.report.verdict import shown, verdict


def cases(mean, low, high, number=40, p=0.01):
    return PairedTest(number, mean, low, high, p, 30, 0, 10, direction=1 if mean > 0 else -1)


def share(value, gap=0.1):
    return GapShare(value, None if value is None else value - 0.2, None if value is None else value + 0.2, gap, -0.1)


UP, DOWN = cases(0.05, 0.02, 0.08), cases(-0.05, -0.08, -0.02)


def test_a_difference_over_seeds_and_cases_helped():
    text = verdict("Dice", Difference(0.05, 0.01, 0.09), UP, share(0.5), 3)
    assert text == (
        "Distillation helped: Dice is 0.050 higher than that of the student alone (95 % interval over 3 seeds 0.010 to "
        "0.090, over 40 cases 0.020 to 0.080, p = 0.010). It closed 50 % of the gap to the teacher (30 to 70 %)."
    )


def test_a_worse_student_is_called_worse():
    text = verdict("Dice", Difference(-0.05, -0.09, -0.01), DOWN, share(-0.5), 3)
    assert text.startswith("Distillation hurt: Dice is 0.050 lower than that of the student alone")
    assert "closed" not in text


@pytest.mark.parametrize(
    ("seeds", "over_cases"),
    [
        (Difference(0.05, -0.01, 0.11), UP),  # another training may give nothing
        (Difference(0.05, 0.01, 0.09), cases(0.05, -0.01, 0.11)),  # other patients may show nothing
        (Difference(0.05, 0.01, 0.09), DOWN),  # the two contradict each other
        (Difference(0.0, 0.0, 0.0), cases(0.0, 0.0, 0.0)),
        (Difference(0.05, None, None), UP),
        (Difference(0.05, 0.01, 0.09), cases(0.05, 0.02, 0.08, number=4, p=0.125)),  # too few cases to tell
        (Difference(0.05, 0.01, 0.09), cases(0.05, 0.05, 0.05, number=1, p=None)),
    ],
)
def test_otherwise_no_difference_was_shown(seeds, over_cases):
    assert shown(seeds, over_cases, 3) == 0
    text = verdict("Dice", seeds, over_cases, share(0.5), 3)
    assert text.startswith("No difference was shown: Dice differs by +0.0")
    assert "closed" not in text


def test_one_seed_is_told_as_one():
    text = verdict("Dice", Difference(0.05, None, None), UP)
    assert text.startswith(
        "Distillation helped: Dice is 0.050 higher than that of the student alone (95 % interval over 40"
    )
    assert text.endswith("One seed says nothing of another training; run several.")


def test_one_case_and_one_seed_show_nothing():
    text = verdict("Dice", Difference(0.4, None, None), cases(0.4, None, None, 1))
    assert text.startswith("No difference was shown: Dice differs by +0.400 (one case and one seed, so without an")


@pytest.mark.parametrize(
    ("seeds", "count", "start"),
    [
        (
            Difference(0.05, 0.01, 0.09),
            3,
            "Distillation helped: AUC is 0.050 higher than that of the student alone (95 %",
        ),
        (Difference(-0.05, -0.09, -0.01), 3, "Distillation hurt"),
        (Difference(0.05, -0.01, 0.11), 3, "No difference was shown"),
        (Difference(0.05, None, None), 1, "No difference was shown: AUC differs by +0.050 (one seed, so without"),
    ],
)
def test_a_score_without_cases_is_judged_by_seeds(seeds, count, start):
    assert verdict("AUC", seeds, None, None, count).startswith(start)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            share(None, gap=-0.02),
            "The teacher was not better than the student alone here (-0.020): no gap to close.",
        ),
        (share(None, gap=0.0), "(+0.000): no gap to close."),
        (share(None, gap=0.02), "was not shown to be better than the student alone, so no share of a gap is given."),
        (share(1.5), "It came out above its teacher, at 150 % of the gap (130 to 170 %)."),
        (None, "over 40 cases 0.020 to 0.080, p = 0.010)."),
    ],
)
def test_the_gap_in_words(found, words):
    assert verdict("Dice", Difference(0.05, 0.01, 0.09), UP, found, 3).endswith(words)
