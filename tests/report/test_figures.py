"""Figures say what the summary says, in text, and live together on one page."""

import re
from xml.etree import ElementTree

import pytest

from monai_kd.report import figures
from monai_kd.report.study import load_study
from monai_kd.report.summary import summarise
from monai_kd.report.svg import styles

HOSTILE = '<script>alert(1)</script> --> $x_1$ & "co"'


@pytest.fixture
def segmented(segmentation):
    return summarise(load_study(segmentation()[0].root), resamples=50)


@pytest.fixture
def classified(classification):
    return summarise(load_study(classification()[0].root), resamples=50)


def all_of(summary):
    drawn = {"gap": figures.gap_bar(summary), "case": figures.scatter(summary, "distilled", "case")}
    drawn |= {f"curve{i}": figures.training_curve(summary, c, f"curve{i}") for i, c in enumerate(summary["curves"])}
    drawn |= {k: figures.class_dots(summary, k, k) for k in summary["per_class"]["kinds"]}
    if summary["classification"]:
        for one in summary["classification"]["class_names"]:
            drawn[f"roc{len(drawn)}"] = figures.roc(summary, one, f"roc{len(drawn)}")
        for make in (figures.confusion_matrix, figures.reliability):
            drawn[make.__name__] = make(summary, "teacher", make.__name__)
    return drawn


def parsed(svg):
    return ElementTree.fromstring(svg)  # noqa: S314


def texts(svg):
    return ["".join(one.itertext()) for one in parsed(svg).iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("kind", ["segmented", "classified"])
def test_every_figure_is_svg_of_its_own(kind, request):
    drawn = all_of(request.getfixturevalue(kind))
    ids = []
    for name, svg in drawn.items():
        parsed(svg)
        own = re.findall(r'\sid="([^"]+)"', svg)
        assert all(one.startswith(f"{name}-") for one in own)
        used = re.findall(r'(?:href="|url\()#([^")]+)', svg)
        assert used
        assert set(used) <= set(own)
        ids += own
    assert len(ids) == len(set(ids))


def test_figures_bring_no_colour_but_the_pages(segmented, classified):
    for summary in (segmented, classified):
        for name, svg in all_of(summary).items():
            painted = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg))
            left = {one for one in painted if not one.startswith(("var(--", "currentColor", "none"))}
            assert left == set(), name
            assert "<style" not in svg
            assert "http://www.w3.org" in svg
            assert "purl.org" not in svg


def test_names_that_begin_with_an_underscore_are_in_the_legend(segmented):
    segmented["networks"]["_wide"] = segmented["networks"].pop("teacher")
    segmented["histories"]["_wide"] = segmented["histories"].pop("teacher")
    for svg in (figures.class_dots(segmented, "Dice", "d"), figures.training_curve(segmented, "loss", "c")):
        assert "\N{ZERO WIDTH SPACE}_wide" in texts(svg)


def test_the_same_summary_gives_the_same_figure(segmented):
    assert figures.gap_bar(segmented) == figures.gap_bar(segmented)


def test_text_is_text(segmented, classified):
    assert {"teacher", "baseline", "distilled", "meanDice"} <= set(texts(figures.gap_bar(segmented)))
    assert {"kidney", "tumour"} <= set(texts(figures.class_dots(segmented, "Dice", "d")))
    assert "soft_target" in texts(figures.training_curve(segmented, "soft_target", "c"))
    found = texts(figures.roc(classified, "melanoma", "r"))
    auc = classified["classification"]["roc"]["teacher"]["melanoma"]["auc"]
    assert f"teacher {auc:.3f}" in found


def test_confusion_is_in_percent_of_the_true_class(classified):
    classified["classification"]["confusion"]["teacher"] = [[3, 1, 0], [0, 8, 0], [0, 0, 0]]
    found = texts(figures.confusion_matrix(classified, "teacher", "c"))
    assert [one for one in found if one.isdigit()] == ["75", "25", "0", "0", "100", "0"]


def test_hostile_names_stay_text(segmented):
    for place in ("teacher", "baseline", "distilled"):
        segmented["histories"][HOSTILE + place] = segmented["histories"].pop(place)
    renamed = {HOSTILE + name: one for name, one in segmented["networks"].items()}
    segmented["networks"] = renamed
    segmented["per_class"]["kinds"]["Dice"] = {HOSTILE: "Dice_kidney"}
    for svg in (
        figures.gap_bar(segmented),
        figures.class_dots(segmented, "Dice", "d"),
        figures.training_curve(segmented, "loss", "c"),
    ):
        assert "<script" not in svg
        assert any("<script>alert(" in one for one in texts(svg))


def test_further_teachers_have_a_look_of_their_own(segmentation):
    levels = {"teacher": 0.85, "third": 0.8, "second": 0.9, "baseline": 0.7, "distilled": 0.75}
    found = summarise(load_study(segmentation(levels=levels, auxiliary=["second", "third"])[0].root), resamples=50)
    looks = styles(found)
    assert len({look.variable for look in looks.values()}) == len({look.marker for look in looks.values()}) == 5
    gap = figures.gap_bar(found)
    for drawn in (gap, figures.training_curve(found, "loss", "c"), figures.class_dots(found, "Dice", "d")):
        assert {f"var({look.variable}" in drawn for look in looks.values()} == {True}
    # Dashed lines are the two ends of the gap, which further teachers do not move.
    assert gap.count("stroke-dasharray") == 2


@pytest.mark.parametrize(("teacher", "shaded"), [(0.85, True), (0.55, False)])
def test_a_gap_is_shaded_only_up_to_a_better_teacher(segmentation, teacher, shaded):
    levels = {"teacher": teacher, "baseline": 0.70, "distilled": 0.75}
    found = summarise(load_study(segmentation(levels=levels)[0].root), resamples=50)
    assert figures.has_gap(found) is shaded
    assert ("opacity: 0.35" in figures.gap_bar(found)) is shaded


@pytest.mark.parametrize("cut", ["teacher", "interval", "history"])
def test_figures_do_without(segmented, cut):
    if cut == "teacher":
        del segmented["networks"]["teacher"]
        del segmented["histories"]["teacher"]
    for network in segmented["networks"].values():
        for score in network["scores"].values():
            if cut == "interval":
                score.update(low=None, high=None)
    if cut == "history":
        segmented["histories"] = {name: {"0": {}} for name in segmented["networks"]}
    drawn = all_of(segmented)
    assert {parsed(svg).tag for svg in drawn.values()} == {"{http://www.w3.org/2000/svg}svg"}
    said = {text for svg in drawn.values() for text in texts(svg)}
    assert said & {"teacher", "baseline", "distilled"} == set(segmented["networks"])
