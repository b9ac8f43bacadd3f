"""The CRCKD bundle from end to end on a handful of generated pictures, with tiny networks."""

import csv
import json
import os
import re
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow
from monai.networks.nets import DenseNet
from PIL import Image

from monai_kd.data import APTOS_CLASSES, HAM10000_CLASSES, aptos_datalist, ham10000_datalist, lesion_image
from monai_kd.report import load_evaluations
from monai_kd.report.__main__ import main as report

from .running import PYTHON, Bundle, differing, files, files_and_keys, finished, normalised, table, weights

pytestmark = pytest.mark.filterwarnings("ignore")

BUNDLE = Bundle("crckd_skin_lesion_classification")
SIZES = {"init_features": 8, "growth_rate": 4, "block_config": [2, 2]}
NETWORK = {
    "_target_": "DenseNet",
    "spatial_dims": 2,
    "in_channels": 3,
    "out_channels": "$len(@class_names)",
    **SIZES,
}
TERMS = ["consistency", "class_contrast", "categorical_relation"]
SILENT = (
    "$[setattr(term, 'weight', 0.0) or term for term in crckd_terms([item['label'] for item in @labelled], "
    "@features, @feature_channels, dimension=@embedding_dimension)]"
)


# --- pictures and runs ----------------------------------------------------------------------------------------------


def write_lesions(root, lesions, extra=0):
    """A HAM10000 folder: of each class so many lesions with one picture each, the first ``extra`` with two."""
    (root / "images").mkdir(parents=True)
    rows = ["lesion_id,image_id,dx"]
    for name, count in lesions.items():
        for view in range(count + min(extra, count)):
            number, lesion = len(rows), view % count
            image = lesion_image(HAM10000_CLASSES.index(name), (36, 44), seed=lesion, view=view // count)
            Image.fromarray(image).save(root / "images" / f"ISIC_{number:03}.jpg")
            rows.append(f"HAM_{name}_{lesion},ISIC_{number:03},{name}")
    (root / "HAM10000_metadata.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.fixture(scope="module")
def lesions(tmp_path_factory):
    """Of each class lesions with one picture and with two; 33 pictures train, of half the labels 15 are left."""
    counts = {**dict.fromkeys(HAM10000_CLASSES, 6), "nv": 8}
    root = write_lesions(tmp_path_factory.mktemp("data") / "lesions", counts, extra=1)
    assert len(ham10000_datalist(root)["training"]) % 8 == 1  # the last batch has one picture
    return root


def settings(data, folder, **more):
    return {
        **BUNDLE.places(data, folder),
        "network_def": NETWORK,
        "image_size": 32,
        "epochs": 2,
        "batch_size": 8,
        "first_epoch": 2,
        "ramp_length": 2,
        "embedding_dimension": 8,
        "learning_rate": 0.01,
        "key_score": "macro_auc",  # of so few pictures the finest
        "log_interval": 1000,
        **more,
    }


@pytest.fixture(scope="module")
def trained(lesions, tmp_path_factory):
    """Everything that one recipe trains, in one folder."""
    folder = tmp_path_factory.mktemp("trained")
    for more in ([], ["baseline.json"], ["mean_teacher.json"]):
        BUNDLE.run("train.json", *more, **settings(lesions, folder))
    return folder


def plain_network(classes=7):
    return DenseNet(2, 3, classes, **SIZES)


# --- training -------------------------------------------------------------------------------------------------------


def test_checkpoints_load_into_a_plain_network(trained):
    names = ["model.pt", "teacher.pt", "baseline.pt", "mean_teacher.pt", "mean_teacher_ema.pt"]
    resume = [f"{name}_resume.pt" for name in ("baseline", "distilled", "mean_teacher")]
    assert files(trained / "models") == sorted([*names, *resume, *(f"{name}.previous" for name in resume)])
    for name in names:
        state = weights(trained / "models" / name)
        plain_network().load_state_dict(state, strict=True)
        assert all(type(value) is torch.Tensor for value in state.values())


def test_runs_train_networks_of_their_own(trained):
    last = {  # the best may all be of the first epoch, in which the terms are silent
        name: weights(trained / "models" / f"{name}_resume.pt")["objects"]
        for name in ("distilled", "baseline", "mean_teacher")
    }
    states = [one["network"]["state"] for one in last.values()]
    states += [weights(trained / "models" / name) for name in ("teacher.pt", "mean_teacher_ema.pt")]
    for i, state in enumerate(states):
        assert all(differing(state, other) for other in states[:i])
    assert not any("rows" in key for key in last["mean_teacher"]["distiller"]["state"])
    assert any("rows" in key for key in last["distilled"]["distiller"]["state"])


def test_teacher_json_keeps_the_teacher_of_the_same_training(lesions, trained, tmp_path):
    BUNDLE.run("train.json", "teacher.json", **settings(lesions, tmp_path))
    assert files(tmp_path / "models") == ["teacher.pt", "teacher_resume.pt", "teacher_resume.pt.previous"]
    kept = weights(tmp_path / "models" / "teacher.pt")
    assert differing(kept, weights(trained / "models" / "teacher.pt")) == []
    ours = weights(tmp_path / "models" / "teacher_resume.pt")["objects"]
    theirs = weights(trained / "models" / "distilled_resume.pt")["objects"]
    assert differing(ours, theirs) == []


def test_silent_terms_are_the_baseline_bit_for_bit(lesions, trained, tmp_path):
    """Teacher, its view of the pictures, heads and banks leave the student's random numbers alone."""
    BUNDLE.run("train.json", **settings(lesions, tmp_path, terms=SILENT))
    silent, baseline = (
        weights(path / "models" / name)["objects"]["network"]["state"]
        for path, name in ((tmp_path, "distilled_resume.pt"), (trained, "baseline_resume.pt"))
    )
    assert differing(silent, baseline) == []
    assert differing(weights(tmp_path / "models" / "model.pt"), weights(trained / "models" / "baseline.pt")) == []


def test_unlabelled_pictures_move_the_student(lesions, tmp_path):
    common = settings(lesions, tmp_path, labelled_fraction=0.5, epochs=1, first_epoch=1)
    states = []
    for more in ({}, {"unlabelled_loader": None}):
        flow = BUNDLE.run("train.json", **common, **more)
        states.append(flow.parser.get_parsed_content("network_def").state_dict())
    assert "/features.conv0.weight" in differing(*states)
    assert flow.parser.get_parsed_content("epoch_length") == 5  # as with all labels


def test_the_teacher_sees_another_view_of_the_same_picture(lesions, tmp_path):
    """Turned by 0 degrees and moved by 0 pixels, the student's view is the picture or its mirror image."""
    parser = BUNDLE.unstarted("train.json", **settings(lesions, tmp_path, rotation=0.0, translation=0.0))
    views = Counter()
    for item, listed in zip(parser.get_parsed_content("train#dataset"), parser.get_parsed_content("labelled")):
        assert sorted(item) == ["image", "index", "label", "teacher_image"]
        assert (item["label"], item["index"]) == (listed["label"], listed["index"])
        picture = normalised(listed["image"])
        turned = [torch.rot90(x, k, (1, 2)) for x in (picture, picture.flip(2)) for k in range(4)]
        found = [
            next(i for i, x in enumerate(turned) if torch.allclose(item[key].float(), x, atol=1e-4))
            for key in ("image", "teacher_image")
        ]
        views[tuple(found)] += 1
    assert {student for student, _ in views} == {0, 4}
    assert len({teacher for _, teacher in views}) > 4
    assert len(views) > 6


def write_grades(root, counts):
    (root / "train_images").mkdir(parents=True)
    rows = ["id_code,diagnosis"]
    for grade, count in enumerate(counts):
        for i in range(count):
            image = lesion_image(grade, (32, 48), seed=i)
            Image.fromarray(image).save(root / "train_images" / f"eye_{grade}_{i}.png")
            rows.append(f"eye_{grade}_{i},{grade}")
    (root / "train.csv").write_text("\n".join(rows) + "\n")
    return root


def test_aptos_is_selected_by_the_quadratic_kappa(tmp_path):
    root = write_grades(tmp_path / "aptos", [8, 5, 6, 5, 5])
    common = settings(root, tmp_path)
    del common["key_score"]
    flow = BUNDLE.run("train.json", "aptos.json", **common)
    plain_network(len(APTOS_CLASSES)).load_state_dict(weights(tmp_path / "models" / "model.pt"), strict=True)
    metrics = flow.parser.get_parsed_content("validate#evaluator").state.metrics
    assert metrics["val_score"] == metrics["quadratic_kappa"]
    BUNDLE.run("train.json", "aptos.json", "evaluate.json", **common)
    found = load_evaluations(tmp_path / "eval")["distilled"]
    assert found.cases == len(aptos_datalist(root)["test"])
    assert found.scores["test_score"] == pytest.approx(found.scores["quadratic_kappa"], nan_ok=True)
    assert "recall_proliferative" in found.scores

    new = inference_settings(tmp_path / "models", root / "train_images", tmp_path / "out")
    message = BUNDLE.message_of("inference.json", kind="infer", **new)
    assert "does not fit DenseNet" in message
    assert "class_layers.out.weight: file (5, 16), network (7, 16)" in message
    assert not (tmp_path / "out").exists()
    BUNDLE.run("inference.json", kind="infer", **new, class_names=list(APTOS_CLASSES))
    assert list(table(tmp_path / "out" / "predictions.csv")[0]) == ["image", "class", *APTOS_CLASSES]


def test_demo_settings_fit_training_and_evaluation(tmp_path, monkeypatch):
    """Every stage of the demo resolves, on fewer and smaller pictures and one epoch."""
    monkeypatch.chdir(tmp_path)
    small = {"block_config": [1, 1], "init_features": 8, "growth_rate": 4}
    short = {
        "bundle_root": str(BUNDLE.folder),
        "device": "cpu",
        "images": 110,
        "image_size": 32,
        "epochs": 1,
        "first_epoch": 1,
    }
    short |= {f"network_def#{key}": value for key, value in small.items()}
    for more in (["baseline.json"], [], ["evaluate.json"], ["baseline.json", "evaluate.json"]):
        BUNDLE.run("train.json", "demo.json", *more, **short)
    assert set(load_evaluations(tmp_path / "demo_output" / "lesion_eval")) == {"baseline", "distilled"}
    assert {"model.pt", "teacher.pt", "baseline.pt"} < set(files(tmp_path / "demo_output" / "lesion_models"))
    assert not list(tmp_path.glob("models")) + list(tmp_path.glob("eval"))


def test_a_class_with_one_picture_and_a_last_batch_of_one(lesions, tmp_path):
    """Nine pictures of seven classes train by fours."""
    datalist = ham10000_datalist(lesions)
    seen = Counter()
    for item in datalist["training"]:
        seen[item["label"]] += 1
        item["kept"] = seen[item["label"]] <= (3 if item["label"] == 5 else 1)
    kept = [{**item, "index": index} for index, item in enumerate(i for i in datalist["training"] if i.pop("kept"))]
    assert len(kept) == 9
    BUNDLE.run("train.json", **settings(lesions, tmp_path, batch_size=4, datalist={**datalist, "training": kept}))
    held = weights(tmp_path / "models" / "distilled_resume.pt")
    assert held["trainer"]["iteration"] == 2 * 3
    for name in ("network", "distiller"):
        assert all(value.isfinite().all() for value in held["objects"][name]["state"].values())


# --- evaluation -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(lesions, trained):
    for more in ([], ["baseline.json"], ["teacher.json"]):
        BUNDLE.run("train.json", *more, "evaluate.json", **settings(lesions, trained))
    return trained / "eval"


@pytest.mark.parametrize(
    ("name", "checkpoint"), [("baseline", "baseline.pt"), ("distilled", "model.pt"), ("teacher", "teacher.pt")]
)
def test_scores_tables_and_predictions_agree(lesions, trained, evaluated, name, checkpoint):
    found = load_evaluations(evaluated)[name]
    network = plain_network().eval()
    network.load_state_dict(weights(trained / "models" / checkpoint))
    items = ham10000_datalist(lesions)["test"]
    predictions = table(evaluated / f"{name}.predictions.csv")
    assert [row["image"] for row in predictions] == [item["image"] for item in items]
    assert [row["label"] for row in predictions] == [HAM10000_CLASSES[item["label"]] for item in items]
    with torch.no_grad():
        expected = network(torch.stack([normalised(item["image"]) for item in items])).softmax(dim=1)
    probabilities = torch.tensor([[float(row[name]) for name in HAM10000_CLASSES] for row in predictions])
    torch.testing.assert_close(probabilities, expected, rtol=1e-4, atol=1e-5)

    pairs = Counter((row["label"], row["class"]) for row in predictions)
    confusion = table(evaluated / f"{name}.classes_confusion.csv")
    assert {
        (row["true_class"], predicted): int(row[predicted])
        for row in confusion
        for predicted in HAM10000_CLASSES
        if int(row[predicted])
    } == pairs
    right = sum(count for (true, predicted), count in pairs.items() if true == predicted)
    assert found.scores["accuracy"] == pytest.approx(right / len(items))
    classes = table(evaluated / f"{name}.classes.csv")
    assert [row["class"] for row in classes] == list(HAM10000_CLASSES)
    for row in classes:
        of_class = [item for item in predictions if item["label"] == row["class"]]
        assert int(row["true_images"]) == len(of_class) > 0
        recall = sum(item["class"] == row["class"] for item in of_class) / len(of_class)
        assert float(row["recall"]) == pytest.approx(recall)
        assert found.scores[f"recall_{row['class']}"] == pytest.approx(recall)
    mean = sum(float(row["recall"]) for row in classes) / 7
    assert found.scores["balanced_accuracy"] == found.scores["macro_recall"] == pytest.approx(mean)
    assert found.scores["test_score"] == found.scores["macro_auc"]
    assert found.cases == len(items)
    assert found.cost.parameters == sum(p.numel() for p in network.parameters())


def test_the_report_compares_what_was_evaluated(evaluated, capsys):
    assert report([str(evaluated), "--score", "balanced_accuracy", "--also", "macro_auc", "quadratic_kappa"]) == 0
    shown = capsys.readouterr().out
    for name in ("baseline", "distilled", "teacher", "balanced_accuracy", "macro_auc", "quadratic_kappa"):
        assert name in shown
    assert (evaluated / "report.md").read_text(encoding="utf-8") in shown


# --- inference ------------------------------------------------------------------------------------------------------


def inference_settings(models, pictures, folder, **more):
    return {
        "bundle_root": str(BUNDLE.folder),
        "ckpt_dir": str(models),
        "dataset_dir": str(pictures),
        "output_dir": str(folder),
        "device": "cpu",
        "network_def": NETWORK,
        "image_size": 32,
        "batch_size": 3,
        "num_workers": 0,
        **more,
    }


@pytest.fixture
def pictures(tmp_path):
    """Of other sizes, modes and formats than the training's."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    images = {
        "wide.jpg": Image.fromarray(lesion_image(4, (33, 90))),
        "tall.png": Image.fromarray(lesion_image(5, (120, 40))),
        "grey.png": Image.fromarray(lesion_image(1, 40)).convert("L"),
        "clear.png": Image.fromarray(lesion_image(2, 40)).convert("RGBA"),
        "small.png": Image.fromarray(lesion_image(3, 32)).resize((20, 25)),
    }
    for name, image in images.items():
        image.save(folder / name)
    return folder


@pytest.mark.parametrize("saliency", [False, True])
def test_inference_writes_what_the_network_says(trained, pictures, tmp_path, saliency):
    names = files(pictures)
    BUNDLE.run(
        "inference.json",
        kind="infer",
        **inference_settings(trained / "models", pictures, tmp_path / "out", saliency=saliency),
    )
    rows = table(tmp_path / "out" / "predictions.csv")
    assert sorted(row["image"] for row in rows) == names
    assert list(rows[0]) == ["image", "class", *HAM10000_CLASSES]
    network = plain_network().eval()
    network.load_state_dict(weights(trained / "models" / "model.pt"))
    for row in rows:
        probabilities = torch.tensor([float(row[name]) for name in HAM10000_CLASSES])
        with torch.no_grad():
            expected = network(normalised(pictures / row["image"])[None]).softmax(dim=1)[0]
        torch.testing.assert_close(probabilities, expected, rtol=1e-4, atol=1e-5)
        assert float(probabilities.sum()) == pytest.approx(1, abs=1e-4)
        assert row["class"] == HAM10000_CLASSES[int(probabilities.argmax())]
    drawn = {f"saliency/{row['image']}.{row['class']}.png" for row in rows} if saliency else set()
    assert set(files(tmp_path / "out")) == {"predictions.csv"} | drawn
    for name in drawn:
        assert Image.open(tmp_path / "out" / name).size == (64, 32)


def test_a_broken_picture_is_reported_before_anything_is_predicted(trained, pictures, tmp_path):
    (pictures / "broken.jpg").write_bytes((pictures / "wide.jpg").read_bytes()[:400])
    (pictures / "empty.png").write_bytes(b"")
    new = inference_settings(trained / "models", pictures, tmp_path / "out", batch_size=1)
    message = BUNDLE.message_of("inference.json", kind="infer", **new)
    assert "broken.jpg" in message
    assert "empty.png" in message
    assert not (tmp_path / "out").exists()


def test_inference_without_pictures_or_weights_says_so(trained, pictures, tmp_path):
    nowhere = inference_settings(tmp_path, tmp_path / "nowhere", tmp_path / "out")
    assert BUNDLE.message_of("inference.json", kind="infer", **nowhere) == (
        f"no folder '{tmp_path / 'nowhere'}'; give the folder that holds the images."
    )
    message = BUNDLE.message_of(
        "inference.json", kind="infer", **inference_settings(tmp_path, pictures, tmp_path / "out")
    )
    assert f"no checkpoint at '{tmp_path}/model.pt'" in message
    assert not (tmp_path / "out").exists()


# --- a stopped run --------------------------------------------------------------------------------------------------

STOPPED = {
    "all labels": {},
    "half the labels": {"labelled_fraction": 0.5},
    "half the labels, workers": {"labelled_fraction": 0.5, "num_workers": 2},
}


@pytest.fixture(scope="module")
def killed(lesions, tmp_path_factory):
    """Runs of four epochs whose processes kill themselves in the middle of the third: folders and what was logged."""
    kill = {
        "+imports": ["$import signal", "$from ignite.engine import Events"],
        "run": [
            "$@train#trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2 * @epoch_length + 2), "
            "lambda: os.kill(os.getpid(), signal.SIGKILL))",
            "$@train#trainer.run()",
        ],
    }
    started = {}
    for name, more in STOPPED.items():
        folder = tmp_path_factory.mktemp("killed")
        (folder / "kill.json").write_text(json.dumps(kill))
        common = settings(lesions, folder, epochs=4, **more)
        started[name] = folder, BUNDLE.start(PYTHON, "train.json", folder / "kill.json", **common)
    found = {}
    for name, (folder, process) in started.items():
        status, shown, _ = finished(process)
        assert status == -signal.SIGKILL, shown[-3000:]
        found[name] = folder, shown
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", STOPPED)
def test_a_killed_run_goes_on_as_if_it_had_not_been(lesions, killed, tmp_path, name):
    more = {"epochs": 4, **STOPPED[name]}
    BUNDLE.run("train.json", **settings(lesions, tmp_path, **more))
    folder, _ = killed[name]
    states = {name: weights(tmp_path / "models" / name) for name in files(tmp_path / "models")}
    before = weights(folder / "models" / "distilled_resume.pt")
    assert before["trainer"]["epoch"] == 2

    flow = BUNDLE.workflow("train.json", **settings(lesions, folder, **more, resume=True))
    flow.initialize()
    epochs = []
    trainer = flow.parser.get_parsed_content("train#trainer")
    trainer.add_event_handler(Events.EPOCH_STARTED, lambda: epochs.append(trainer.state.epoch))
    flow.run()
    assert epochs == [3, 4]
    assert files(folder / "models") == sorted(states)
    for name, state in states.items():
        assert differing(weights(folder / "models" / name), state) == [], name
    histories = [table(path / "eval" / "distilled.history.csv") for path in (folder, tmp_path)]
    assert histories[0] == histories[1]
    assert [row["epoch"] for row in histories[0]] == ["1", "2", "3", "4"]

    # What is compared has changed in the epochs that were done twice.
    whole = states["distilled_resume.pt"]
    assert sorted(states) == ["distilled_resume.pt", "distilled_resume.pt.previous", "model.pt", "teacher.pt"]
    changed = differing(before["objects"], whole["objects"])
    for part in ("network/", "optimizer/", "lr_scheduler/", "distiller/"):
        assert any(key.startswith(f"/{part}") for key in changed)
    distiller = whole["objects"]["distiller"]["state"]
    for part in ("student_rows", "teacher_rows", "log_partition", "student_head", "teacher_head", "teachers.teacher."):
        assert any(part in key for key in distiller)
        assert part == "log_partition" or any(part in key for key in changed)
    assert all(value.isfinite().all() for key, value in distiller.items() if "log_partition" in key)
    assert [best for best, _ in whole["best"][1:]] == [saver["_saved"][0][0] for saver in whole["savers"]]


@pytest.mark.slow
def test_the_first_batch_shows_what_each_term_weighs(killed):
    _, log = killed["all labels"]
    lines = re.findall(r"first batch: (\w+) ([\d.e+-]+), weight ([\d.e+-]+), weighted gradient norm", log)
    assert [name for name, *_ in lines] == ["task_loss", *TERMS]
    assert all(float(value) > 0 for _, value, _ in lines)
    assert [float(weight) for *_, weight in lines] == [1.0, 0.0, 0.1, 0.0]


def test_nothing_to_resume(lesions, tmp_path):
    message = BUNDLE.message_of("train.json", **settings(lesions, tmp_path, resume=True))
    assert f"nothing to resume: there is no '{tmp_path}/models/distilled_resume.pt'" in message
    assert not list(tmp_path.rglob("*.pt"))


def test_another_run_is_not_resumed(lesions, trained, tmp_path):
    shutil.copytree(trained / "models", tmp_path / "models")
    before = {name: (tmp_path / "models" / name).read_bytes() for name in files(tmp_path / "models")}
    for more, reason in (
        ({"labelled_fraction": 0.5}, "'labelled_fraction' was 1.0, here it is 0.5; 'training' was 33 items ("),
        ({"epochs": 3}, "a schedule of fixed length can be neither extended nor cut"),
        ({"batch_size": 4}, "iterations in the file"),
    ):
        message = BUNDLE.message_of("train.json", **settings(lesions, tmp_path, **more, resume=True))
        assert "distilled_resume.pt" in message
        assert reason in message
    assert {name: (tmp_path / "models" / name).read_bytes() for name in files(tmp_path / "models")} == before


# --- what is wrong --------------------------------------------------------------------------------------------------


def test_a_missing_picture_is_one_clear_line_from_the_command_line(lesions, tmp_path):
    shutil.copytree(lesions, tmp_path / "data")
    (tmp_path / "data" / "images" / "ISIC_007.jpg").unlink()
    status, shown, _ = BUNDLE.command(PYTHON, "train.json", **settings(tmp_path / "data", tmp_path))
    assert status == 1
    assert "Traceback" not in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("error:")]
    assert str(tmp_path / "data") in line
    assert re.search(r"1 of \d+ listed images not found .*: ISIC_007\n", shown)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def bad_data(tmp_path, lesions):
    shutil.copytree(lesions, tmp_path / "data")
    return tmp_path / "data"


def test_broken_and_repeated_pictures_are_named_together(lesions, tmp_path):
    data = bad_data(tmp_path, lesions)
    trained = [Path(item["image"]) for item in ham10000_datalist(data)["training"]]
    trained[0].write_bytes(trained[0].read_bytes()[:300])
    trained[1].write_bytes(b"")
    message = BUNDLE.message_of("train.json", **settings(data, tmp_path))
    assert trained[0].name in message
    assert trained[1].name in message
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_label_outside_the_classes(lesions, tmp_path):
    message = BUNDLE.message_of("train.json", **settings(lesions, tmp_path, class_names=["akiec", "bcc", "bkl"]))
    assert "label must be an integer from 0 to 2, got" in message
    assert not any(tmp_path.iterdir())


def test_an_unknown_diagnosis(lesions, tmp_path):
    data = bad_data(tmp_path, lesions)
    file = data / "HAM10000_metadata.csv"
    file.write_text(file.read_text(encoding="utf-8").replace(",nv", ",naevus", 1))
    message = BUNDLE.message_of("train.json", **settings(data, tmp_path))
    assert "'naevus'" in message
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_class_without_training_pictures(lesions, tmp_path):
    datalist = ham10000_datalist(lesions)
    for index, item in enumerate(kept := [item for item in datalist["training"] if item["label"] != 3]):
        item["index"] = index
    message = BUNDLE.message_of("train.json", **settings(lesions, tmp_path, datalist={**datalist, "training": kept}))
    assert "no labelled item of class 3 of 7" in message
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("shift", "expected"), [(1000, "outside the memory's {count} training images"), (1, "not those of the memory")]
)
def test_an_index_that_is_not_the_memorys(shift, expected, lesions, tmp_path):
    datalist = ham10000_datalist(lesions)
    for item in datalist["training"]:
        item["index"] += shift
    message = BUNDLE.message_of("train.json", **settings(lesions, tmp_path, datalist=datalist))
    assert expected.format(count=len(datalist["training"])) in message
    assert not list(tmp_path.rglob("*.pt"))


def test_a_method_that_would_begin_after_the_training_says_so(lesions, tmp_path):
    with pytest.warns(UserWarning, match="begin with epoch 21, but the training ends with 1: lower first_epoch"):
        BUNDLE.run("train.json", **settings(lesions, tmp_path, epochs=1, first_epoch=21))


def test_pictures_too_small_for_the_network(lesions, tmp_path):
    message = BUNDLE.message_of("train.json", **settings(lesions, tmp_path, image_size=4))
    assert "the student cannot take 'image' of shape (2, 3, 4, 4)" in message
    assert files(tmp_path) == []


def test_a_missing_split_stops_before_training(lesions, tmp_path):
    message = BUNDLE.message_of("train.json", **settings(lesions, tmp_path, val_fraction=0.0))
    assert "no items in validation" in message
    assert not any(tmp_path.iterdir())


def test_evaluation_of_another_checkpoint(lesions, trained, tmp_path):
    wide = {**NETWORK, "growth_rate": 8}
    common = {**settings(lesions, trained), "output_dir": str(tmp_path / "eval"), "network_def": wide}
    message = BUNDLE.message_of("train.json", "evaluate.json", **common)
    assert "model.pt' does not fit DenseNet" in message
    common = settings(lesions, trained) | {"output_dir": str(tmp_path / "eval"), "checkpoint": "nothing.pt"}
    assert "no checkpoint at" in BUNDLE.message_of("train.json", "evaluate.json", **common)
    common["checkpoint"] = "distilled_resume.pt"
    assert "holds no state dict" in BUNDLE.message_of("train.json", "evaluate.json", **common)
    assert files(tmp_path) == []


# --- the documentation ----------------------------------------------------------------------------------------------


def test_the_commands_of_the_readme_do_what_it_says(lesions, pictures, tmp_path, monkeypatch):
    """All but those of the demo and of several GPUs, in its order, in the folder of the bundle."""
    shutil.copytree(BUNDLE.folder, tmp_path / "bundle", ignore=shutil.ignore_patterns("models", "eval"))
    monkeypatch.chdir(tmp_path / "bundle")
    places = {"DATA": str(lesions), "PICTURES": str(pictures)}
    tiny = {key: value for key, value in settings(lesions, tmp_path).items() if not key.endswith(("_dir", "_root"))}
    done = Counter()
    for words in BUNDLE.readme_commands():
        if words[0] == "torchrun" or "demo.json" in str(words):
            continue
        assert words[:2] == ["python", "-m"]
        if words[2] == "monai_kd.report":
            assert report(words[3:]) == 0
            done["report"] += 1
            continue
        assert words[2:4] == ["monai.bundle", "run"]
        configs, given = files_and_keys(words)
        given = {key: places.get(value, value) for key, value in given.items()}
        for key in {"resume", "saliency", "labelled_fraction"} & given.keys():
            given[key] = json.loads(given[key])
        given.pop("backbone_checkpoint", None)
        inference = "configs/inference.json" in configs
        own = {key: tiny[key] for key in ("device", "network_def", "image_size", "num_workers")} if inference else tiny
        flow = ConfigWorkflow(
            configs, "configs/metadata.json", False, workflow_type="infer" if inference else "train", **{**own, **given}
        )
        flow.initialize()
        flow.run()
        done["inference" if inference else "evaluation" if "configs/evaluate.json" in configs else "training"] += 1
    assert done == {"training": 5, "evaluation": 3, "report": 1, "inference": 2}
    made = set(files(tmp_path / "bundle"))
    assert {"tenth/models/model.pt", "tenth/models/teacher.pt"} < made
    for name in ("baseline", "mean_teacher", "model", "teacher", "mean_teacher_ema"):
        assert f"models/{name}.pt" in made
    for name in ("baseline", "distilled", "mean_teacher"):
        assert f"eval/{name}.history.csv" in made
    for name in ("baseline", "distilled", "teacher"):
        assert {f"eval/{name}.{end}" for end in ("evaluation.json", "classes.csv", "predictions.csv")} < made
    assert {"eval/report.md", "predictions/predictions.csv", "eval/distilled.classes_confusion.csv"} < made
    assert len([name for name in made if name.startswith("predictions/saliency/")]) == len(files(pictures))


# --- real pictures --------------------------------------------------------------------------------------------------


def test_an_epoch_on_real_pictures(tmp_path):
    if "MONAI_KD_DATA" not in os.environ:
        pytest.skip("set MONAI_KD_DATA to the folder that holds ham10000")
    source = Path(os.environ["MONAI_KD_DATA"]) / "ham10000"
    (tmp_path / "data" / "images").mkdir(parents=True)
    paths = {path.stem: path for path in source.rglob("*.jpg")}
    kept, found = Counter(), []
    for row in table(source / "HAM10000_metadata.csv"):
        if kept[row["dx"]] < 8:
            kept[row["dx"]] += 1
            found.append(row)
            (tmp_path / "data" / "images" / f"{row['image_id']}.jpg").symlink_to(paths[row["image_id"]])
    with open(tmp_path / "data" / "HAM10000_metadata.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    common = settings(tmp_path / "data", tmp_path, epochs=1, first_epoch=1)
    BUNDLE.run("train.json", **common)
    BUNDLE.run("train.json", "evaluate.json", **common)
    evaluation = load_evaluations(tmp_path / "eval")["distilled"]
    assert evaluation.cases == len(ham10000_datalist(tmp_path / "data")["test"])
    assert 0 <= evaluation.scores["accuracy"] <= 1
