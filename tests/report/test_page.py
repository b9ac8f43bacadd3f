"""The three files of a report."""

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from monai_kd.report import page as page_module
from monai_kd.report.page import write_report
from monai_kd.report.picture_files import mask_of
from monai_kd.report.pictures import case_pictures
from monai_kd.report.planes import largest_error
from monai_kd.report.study import load_study
from monai_kd.report.summary import summarise

HOSTILE = "<script>alert('x')</script>"
GREEN, YELLOW = (0x37, 0xE3, 0x6B), (0xFF, 0xD2, 0x3F)


class Reader(HTMLParser):
    """Tags that are not closed, attributes that may ask a network, and the visible text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.asking, self.text, self.labels = [], set(), [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag not in ("meta", "link", "img", "br", "use", "path"):
            self.open.append(tag)
        self.labels += [value for name, value in attributes if name == "aria-label"]
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "srcset", "action") and not (value or "").startswith(
                ("data:", "#")
            ):
                self.asking.append(value)

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        if tag not in ("use", "path"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def read(page):
    """The page, a file or its text, as a reader sees it."""
    found = Reader(page if isinstance(page, str) else page.read_text(encoding="utf-8"))
    return found, " ".join(" ".join(found.text).split())


def made_quickly(root):
    """The page and the Markdown, with few draws of the bootstrap."""
    summary = summarise(load_study(root), resamples=100)
    return page_module.page(summary), page_module.markdown(summary)


def test_all_three_files_are_written(segmentation):
    runs, _ = segmentation()
    path = write_report(runs.root)
    assert path == runs.root / "report.html"
    made = {one.name for one in runs.root.iterdir() if one.is_file()}
    assert made == {"study.json", "report.html", "report.md", "report.json"}
    summary = json.loads((runs.root / "report.json").read_text(encoding="utf-8"))
    found, text = read(path)
    assert (found.open, found.asking) == ([], [])
    assert "script" not in found.tags
    assert "Distillation helped: meanDice is 0." in text
    assert text.index("Distillation helped") < text.index("How much of the gap") < text.index("What was run")
    share = summary["comparisons"]["distilled"]["share"]["share"]
    assert f"It closed {100 * share:.0f} % of the gap" in text
    for network in summary["networks"].values():
        score = network["scores"]["meanDice"]
        assert f"{score['mean']:.3f} ± {score['deviation']:.3f}" in text
    assert "monai-kd compare bundles/kidney --seeds 0 1 2" in text
    table = (runs.root / "report.md").read_text(encoding="utf-8")
    assert summary["verdicts"][0]["sentence"] in table
    assert [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")][2:] == [
        "teacher",
        "baseline",
        "distilled",
    ]


def test_a_report_of_predictions(classification):
    runs, *_ = classification()
    found, text = read(write_report(runs.root))
    assert (found.open, found.asking) == ([], [])
    for part in ("Confusion", "ROC", "Reliability", "Per class", "melanoma", "probability of the true class"):
        assert part in text


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_a_worse_student_is_told_first(segmentation, seeds):
    runs, _ = segmentation(levels={"teacher": 0.85, "baseline": 0.70, "distilled": 0.60}, seeds=seeds)
    path = write_report(runs.root)
    _, text = read(path)
    plain = r"Distillation hurt: meanDice is 0\.\d+ lower than that of the student alone"
    assert re.search(rf"test cases, compared in meanDice · 2026-01-31 12:00 {plain}\. 95 % interval over", text)
    assert re.search(
        rf"^distilled: {plain} \(95 % interval", (runs.root / "report.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert not re.search("helped|It closed", text)
    assert '<div class="verdict hurt">' in path.read_text(encoding="utf-8")
    # The share below 0 and the difference carry their sign.
    share = json.loads((runs.root / "report.json").read_text(encoding="utf-8"))["comparisons"]["distilled"]["share"][
        "share"
    ]
    assert f"\N{MINUS SIGN}{-100 * share:.0f} %" in text


def test_a_student_that_is_neither_better_nor_worse_is_not_praised(segmentation):
    runs, _ = segmentation(levels={"teacher": 0.85, "baseline": 0.70, "distilled": 0.705})
    _, text = read(write_report(runs.root))
    assert "No difference was shown: meanDice differs by" in text
    assert not re.search("helped|hurt|It closed", text)
    # Nor is the share of the gap said, which the numbers have.
    share = json.loads((runs.root / "report.json").read_text(encoding="utf-8"))["comparisons"]["distilled"]["share"][
        "share"
    ]
    assert share is not None
    assert "not given" in text
    assert f"{100 * share:.0f} %" not in (runs.root / "report.md").read_text(encoding="utf-8").replace("95 %", "")


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_further_teachers_are_shown(kind, request):
    build = request.getfixturevalue(kind)
    values = dict(zip(("teacher", "baseline", "distilled", "second"), (2.6, 1.0, 1.9, 2.2)))
    chosen = {"skills": values} if kind == "classification" else {"levels": {k: v / 3 for k, v in values.items()}}
    html, table = made_quickly(build(auxiliary=["second"], **chosen)[0].root)
    found, text = read(html)
    assert found.open == []
    assert "second further teacher" in text
    assert "var(--auxiliary-0)" in html
    assert "| second (further teacher) | " in table
    assert text.count("Distillation helped") == 1


def test_what_all_students_cost_is_said_once(segmentation):
    runs, _ = segmentation(levels={"teacher": 0.85, "baseline": 0.70, "one": 0.78, "two": 0.79}, seeds=(0,))
    _, text = read(write_report(runs.root))
    assert text.count("The student needs 25 % of the teacher's parameters, 25 % of its") == 1


def test_what_was_run_is_told_in_words(segmentation):
    runs, _ = segmentation(seeds=(0,), created="2026-01-31T13:05:59+01:00", git={"commit": "1d4d", "changed": True})
    _, text = read(write_report(runs.root))
    for part in ("2026-01-31 12:05 UTC", "commit 1d4d, with changes that are not in it", "epochs = 4", "training 40"):
        assert part in text


def test_what_each_network_was_told_is_beside_its_name(segmentation):
    """A teacher of all labels is not compared with a student of a tenth of them in silence."""
    split = {"training": 40, "unlabelled": 0, "test": 24}
    others = {"teacher": {"training": 400, "unlabelled": 0}}
    runs, _ = segmentation(seeds=(0,), data={"split": split, "other_splits": others})
    runs.edit(lambda study: study["networks"]["teacher"].update(overrides={"labelled_fraction": 1.0}))
    _, text = read(made_quickly(runs.root)[0])
    assert "teacher: teacher.json, labelled_fraction 1.0; baseline: baseline.json; distilled" in text
    assert "training 40, test 24; teacher: training 400" in text


@pytest.mark.parametrize(("score", "said"), [("balanced_accuracy", "sign flips p"), ("accuracy", "Wilcoxon p")])
def test_the_test_over_cases_is_named(classification, score, said):
    _, text = read(made_quickly(classification(score=score)[0].root)[0])
    assert said in text
    assert ("Wilcoxon" in text) == (score == "accuracy")
    assert ("permutation test" in text) == (score != "accuracy")


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_a_report_without_a_teacher_and_of_few_seeds(segmentation, seeds):
    runs, _ = segmentation(seeds=seeds)
    runs.edit(lambda study: study["networks"].pop("teacher"))
    found, text = read(write_report(runs.root))
    assert found.open == []
    assert "None" not in text
    assert "nan" not in text.lower().split()


def test_a_report_of_several_students(segmentation):
    runs, _ = segmentation(levels={"teacher": 0.85, "baseline": 0.70, "soft targets": 0.78, "attention": 0.69})
    _, text = read(write_report(runs.root))
    assert text.index("soft targets Distillation helped") < text.index("attention No difference was shown")


def test_every_string_is_escaped(segmentation, classification, tmp_path):
    runs, _ = segmentation(
        levels={"teacher": 0.8, "baseline": 0.7, "distilled": 0.75}, bundle=HOSTILE, command=HOSTILE, created=HOSTILE
    )
    for name in ("teacher", "baseline", "distilled"):
        for path in (runs.root / name).rglob("*.csv"):
            path.write_text(
                path.read_text(encoding="utf-8").replace("Dice_kidney", f"Dice_{HOSTILE}").replace("labelsTr/", HOSTILE)
            )
        for path in (runs.root / name).rglob("*.evaluation.json"):
            path.write_text(path.read_text(encoding="utf-8").replace("Dice_kidney", f"Dice_{HOSTILE}"))
    runs.edit(lambda study: study.update(versions={HOSTILE: HOSTILE}, git={"commit": HOSTILE}))
    for kind in (runs, classification(root=tmp_path / "other", classes=(HOSTILE, "{{ 7 * 7 }}", "keratosis"))[0]):
        found, text = read(write_report(kind.root))
        assert found.open == []
        assert "script" not in found.tags
        assert "<script>alert('x')</script>" in text
        assert "<script" not in (kind.root / "report.md").read_text(encoding="utf-8").replace("\\<", "")
    assert "{{ 7 * 7 }}" in text


NAMES = ("<script>alert(1)", "a\"b'|c", "{{ 7 * 7 }}{% x %}", "_*[`~&lt;")


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_names_of_networks_classes_and_cases_stay_text(kind, request):
    build, further, students = request.getfixturevalue(kind), NAMES[0], NAMES[1:]
    values = {"teacher": 0.85, further: 0.8, "baseline": 0.7} | dict.fromkeys(students, 0.78)
    if kind == "segmentation":
        runs, _ = build(levels=values, auxiliary=[further], regions=NAMES, seeds=(0,))
        for path in runs.root.rglob("*.cases.csv"):
            with path.open(newline="", encoding="utf-8") as file:
                head, *rows = csv.reader(file)
            with path.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([head, *([f"{NAMES[len(row[0]) % 4]} {row[0]}", *row[1:]] for row in rows)])
    else:
        runs, *_ = build(classes=NAMES, skills={one: 3 * value for one, value in values.items()}, auxiliary=[further])
    html, table = made_quickly(runs.root)
    found, text = read(html)
    assert found.open == []
    assert "script" not in found.tags
    assert f"{further} further teacher" in text
    assert all(text.count(name) > 5 for name in NAMES)
    assert all(any(name in label for label in found.labels) for name in students)
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable(["table", "strikethrough"])
    table = Reader(parser.render(table))
    assert table.open == []
    assert table.tags <= {"h1", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
    cells = [cell for cell in table.text if cell.strip()]
    first = cells.index("teacher")
    assert cells[first::8][:6] == ["teacher", f"{further} (further teacher)", "baseline", *students]


def test_a_report_is_written_whole_or_not_at_all(segmentation, monkeypatch):
    runs, _ = segmentation(seeds=(0,))
    write_report(runs.root)
    before = {path.name: path.read_bytes() for path in runs.root.glob("report.*")}
    runs.edit(lambda study: study.update(bundle="another"))

    def broken(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(page_module, "page", broken)
    with pytest.raises(OSError, match="full"):
        write_report(runs.root)
    assert {path.name: path.read_bytes() for path in runs.root.glob("report.*")} == before
    assert not [path for path in runs.root.iterdir() if path.name.startswith(".")]


def test_the_same_runs_give_the_same_report(segmentation):
    runs, _ = segmentation(seeds=(0, 1))
    texts = []
    for _ in range(2):
        write_report(runs.root)
        texts.append([path.read_text(encoding="utf-8") for path in sorted(runs.root.glob("report.*"))])
    assert texts[0] == texts[1]


# --- pictures -------------------------------------------------------------------------------------------------------


def pixels(panel):
    data = base64.b64decode(panel.uri.removeprefix("data:image/jpeg;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def coloured(panel, colour):
    return int((np.abs(pixels(panel) - colour).sum(axis=-1) < 90).sum())


def store(runs, shape, save, label_of, suffix):
    """An image and a truth a case, and masks of the first seed of every network."""
    folder = runs.root / "data"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    items = []
    for index in range(2):
        generator = np.random.default_rng(index)
        save(folder / f"imagesTr/case_{index:03}{suffix}", generator.uniform(0, 100, shape))
        save(folder / f"labelsTr/case_{index:03}{suffix}", label_of(0))
        items.append({"image": f"imagesTr/case_{index:03}{suffix}", "label": f"labelsTr/case_{index:03}{suffix}"})
        for move, name in enumerate(("teacher", "baseline", "distilled"), 1):
            masks = runs.root / name / "seed_0" / "masks"
            masks.mkdir(exist_ok=True)
            save(masks / f"case_{index:03}_seg{suffix}", label_of(move))
    runs.edit(lambda study: study["data"].update(test_cases=items))


def save_frame(path, values):
    Image.fromarray(values.astype(np.uint8)).save(path)


def save_volume(path, values):
    nib.save(nib.Nifti1Image(values.astype(np.float32), np.diag([1.0, 1.0, 3.0, 1.0])), path)


@pytest.mark.parametrize("dims", [2, 3])
def test_pictures_show_image_truth_and_every_network(segmentation, dims):
    runs, _ = segmentation(seeds=(0,), cases=4, regions=("polyp",))

    def label_of(move):
        mask = np.zeros((40, 50, 16)[:dims])
        mask[(slice(10 + move, 24 + move), slice(8, 30), slice(4, 12))[:dims]] = 255 if dims == 2 else 1
        return mask

    store(runs, (40, 50, 16)[:dims], (save_frame, save_volume)[dims - 2], label_of, (".png", ".nii.gz")[dims - 2])
    found = case_pictures(load_study(runs.root), ["labelsTr/case_000.nii.gz", "labelsTr/case_003.nii.gz"])
    if dims == 2:
        assert found == {}  # another ending: not that file
        found = case_pictures(load_study(runs.root), ["labelsTr/case_000.png", "case_001"])
    (panels, *_) = found.values()
    assert [panel.title for panel in panels] == ["image", "truth", "teacher", "baseline", "distilled"]
    assert coloured(panels[0], GREEN) == coloured(panels[0], YELLOW) == coloured(panels[1], YELLOW) == 0
    assert all(coloured(panel, GREEN) > 200 for panel in panels[1:])
    assert all(coloured(panel, YELLOW) > 200 for panel in panels[2:])
    if dims == 3:
        assert "data:image/jpeg" in write_report(runs.root).read_text(encoding="utf-8")


def test_planes_go_through_the_largest_error():
    truth = np.zeros((20, 20, 20), np.uint8)
    mask = truth.copy()
    mask[2, 2, 2] = 1
    mask[10:15, 11:14, 6:9] = 1
    assert largest_error(truth.shape, truth, [truth, mask]) == (12, 12, 7)
    assert largest_error(truth.shape, mask, [mask]) == (12, 12, 7)  # no error: the truth
    assert largest_error(truth.shape, truth, [truth]) == (10, 10, 10)  # nothing at all


def test_masks_of_another_size_are_refused(segmentation):
    runs, _ = segmentation(seeds=(0,), cases=2, regions=("polyp",))
    store(runs, (20, 30), save_frame, lambda move: np.ones((20, 30 - (move == 2))), ".png")
    with pytest.raises(ValueError, match=r"a mask is \(20, 29\), its image \(20, 30\)"):
        case_pictures(load_study(runs.root), ["case_000"])


def test_classified_pictures_are_shown(classification):
    runs, *_ = classification()
    (runs.root / "data/images").mkdir(parents=True)
    for index in range(90):
        Image.new("RGB", (30, 20), (200, 30, 30)).save(runs.root / f"data/images/img_{index:03}.png")
    text = write_report(runs.root).read_text(encoding="utf-8")
    assert text.count("data:image/jpeg;base64,") == 10
    assert 'class="note legend"' not in text  # no outline of truth or prediction


@pytest.mark.parametrize("relative", [False, True])
def test_masks_are_found_as_the_data_list_names_their_images(segmentation, relative):
    """Equally named files in folders of their own, names that begin alike, images in several files, classes."""
    runs, _ = segmentation(seeds=(0,), cases=4, regions=("polyp",))
    folder, made = runs.root / "data", []
    masks = runs.root / "teacher/seed_0/masks"
    names = ("case_1/imaging", "case_1_2/imaging", "flat/case_1", "flat/case_1_2")
    for place, name in enumerate(names):
        for path in (folder / f"{name}.png", masks / f"{name}_seg.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
            save_frame(path, np.full((8, 8), 255 * (place == 2)))
        path = f"{name}.png" if relative else str(folder / f"{name}.png")
        made.append({"image": [path, "other.png"], "label": place})
    runs.edit(lambda study: study["data"].update(test_cases=made, dataset_dir=str(folder) if relative else None))
    study = load_study(runs.root)
    for name in names:
        assert [panel.title for panel in case_pictures(study, [f"{name}.png"])[f"{name}.png"]] == ["image", "teacher"]
        found = mask_of(study.teacher.runs, f"{name}.png", folder / f"{name}.png", None)
        assert found == masks / f"{name}_seg.png"
