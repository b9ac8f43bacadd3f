"""The HDKD bundle from end to end on a handful of generated pictures, with tiny networks."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Events
from PIL import Image

from monai_kd.data import (
    BRAIN_MRI_CLASSES,
    HAM10000_CLASSES,
    brain_mri_datalist,
    ham10000_datalist,
    lesion_image,
    make_brain_mri_images,
    make_lesion_images,
)
from monai_kd.networks import HDKDStudent, HDKDTeacher
from monai_kd.report import load_evaluations
from monai_kd.report.__main__ import main as report

from .running import PYTHON, Bundle, differing, files, normalised, seen, standardised, table, weights

pytestmark = pytest.mark.filterwarnings("ignore")

STUDENT = {"channels": [4, 6, 8, 16], "depths": [1, 1, 1, 1], "num_heads": 2, "dim_head": 4}
TEACHER = {"channels": [4, 6, 8], "depths": [2, 1, 2], "hidden_size": 8}
TINY = {f"network_def#{key}": value for key, value in STUDENT.items()}
TINY_TEACHER = {f"teacher_def#{key}": value for key, value in TEACHER.items()}
TERMS = ["soft_target", "feature_stage1", "feature_stage2", "feature_stage3"]


class HDKD(Bundle):
    def workflow(self, *names, **overrides):
        """``teacher.json`` takes the teacher as the network."""
        if "teacher.json" in names:
            overrides = {key: value for key, value in overrides.items() if key not in TINY}
        return super().workflow(*names, **overrides)


BUNDLE = HDKD("hdkd_skin_lesion_classification")


# --- pictures and runs ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lesions(tmp_path_factory):
    return write_lesions(tmp_path_factory.mktemp("data") / "lesions")


def write_lesions(root):
    """Six lesions of each class, one picture each, so that every split has every class."""
    (root / "images").mkdir(parents=True)
    rows = ["lesion_id,image_id,dx"]
    for index, name in enumerate(HAM10000_CLASSES):
        for seed in range(6):
            number = len(rows)
            Image.fromarray(lesion_image(index, (36, 44), seed=seed)).save(root / "images" / f"ISIC_{number:03}.jpg")
            rows.append(f"HAM_{name}_{seed},ISIC_{number:03},{name}")
    (root / "HAM10000_metadata.csv").write_text("\n".join(rows) + "\n")
    return root


def settings(data, folder, **more):
    return {
        **BUNDLE.places(data, folder),
        "image_size": 32,
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 0.001,
        "key_score": "macro_auc",  # of so few pictures the finest
        "log_interval": 1000,
        **TINY,
        **TINY_TEACHER,
        **more,
    }


def plain_student(distill_token=True, classes=7):
    return HDKDStudent(2, 3, classes, 32, distill_token=distill_token, **STUDENT)


def plain_teacher(classes=7):
    return HDKDTeacher(2, 3, classes, **TEACHER)


@pytest.fixture(scope="module")
def trained(lesions, tmp_path_factory):
    """The three runs in one folder, and the teacher's file and weights around the distillation."""
    folder = tmp_path_factory.mktemp("trained")
    for more in (["teacher.json"], ["baseline.json"]):
        BUNDLE.run("train.json", *more, **settings(lesions, folder))
    before = (folder / "models" / "teacher.pt").read_bytes()
    flow = BUNDLE.run("train.json", **settings(lesions, folder))
    return folder, before, flow


# --- training -------------------------------------------------------------------------------------------------------


def test_checkpoints_load_into_plain_networks(trained):
    folder, _, _ = trained
    for name, network in {
        "teacher.pt": plain_teacher(),
        "baseline.pt": plain_student(distill_token=False),
        "model.pt": plain_student(),
    }.items():
        network.load_state_dict(weights(folder / "models" / name), strict=True)


def test_the_teacher_stays_as_it_was(trained):
    folder, before, flow = trained
    assert (folder / "models" / "teacher.pt").read_bytes() == before
    network = flow.parser.get_parsed_content("teacher").network
    assert differing(dict(network.state_dict()), weights(folder / "models" / "teacher.pt")) == []
    assert not network.training
    optimised = {id(p) for p in flow.parser.get_parsed_content("parameters")}
    assert not any(id(p) in optimised for p in network.parameters())


def test_every_term_is_in_the_loss(trained):
    """The trainer's loss is the sum of the paper, with the weights of the keys."""
    _, _, flow = trained
    output = flow.parser.get_parsed_content("train#trainer").state.output[0]  # of any image: they are of the batch
    weights = [0.5 / 7, 10.0, 20.0, 30.0]
    expected = 0.5 * output["task_loss"] + sum(weight * output[name] for name, weight in zip(TERMS, weights))
    torch.testing.assert_close(torch.as_tensor(output["loss"]).detach(), torch.as_tensor(expected))
    assert all(output[name] > 0 for name in TERMS)


def test_equal_weights_of_the_classes(lesions, trained):
    parser = BUNDLE.unstarted("train.json", **settings(lesions, trained[0], **{"loss_function#weight": "$None"}))
    assert parser.get_parsed_content("loss_function").weight is None


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({"alpha": 0.0}, TERMS[1:]),
        ({"feature_weight": 0.0}, TERMS[:1]),
        ({"targets": "hard"}, ["hard_target", *TERMS[1:]]),
    ],
)
def test_keys_of_the_ablations(lesions, trained, more, names):
    parser = BUNDLE.unstarted("train.json", **settings(lesions, trained[0], **more))
    assert [term.name for term in parser.get_parsed_content("terms")] == names
    assert (parser.get_parsed_content("network_def").head_distill is None) == (more.get("alpha") == 0)
    assert parser.get_parsed_content("task_weight") == 1 - more.get("alpha", 0.5)


def test_silent_terms_are_the_baseline_bit_for_bit(lesions, trained, tmp_path):
    """The teacher leaves the student's random numbers alone."""
    folder, _, _ = trained
    silent = "$[setattr(term, 'weight', 0.0) or term for term in hdkd_terms(7, alpha=0.0)]"
    common = settings(lesions, tmp_path, terms=silent, task_weight=1.0, distill_token=False)
    BUNDLE.run("train.json", **common, teacher_checkpoint=str(folder / "models" / "teacher.pt"))
    assert differing(weights(tmp_path / "models" / "model.pt"), weights(folder / "models" / "baseline.pt")) == []


def test_distillation_changes_the_student(lesions, trained, tmp_path):
    folder, _, _ = trained
    common = settings(lesions, tmp_path, epochs=1, teacher_checkpoint=str(folder / "models" / "teacher.pt"))
    states = []
    for weight in (10.0, 0.0):
        flow = BUNDLE.run("train.json", **common, feature_weight=weight)
        states.append(dict(flow.parser.get_parsed_content("network_def").state_dict()))
    assert "/stage1.0.0.weight" in differing(*states)


def test_unlabelled_pictures_teach(lesions, trained, tmp_path):
    folder, _, _ = trained
    common = settings(lesions, tmp_path, epochs=1, labelled_fraction=0.5)
    common["teacher_checkpoint"] = str(folder / "models" / "teacher.pt")
    states = []
    for more in ({}, {"unlabelled_loader": None}):
        flow = BUNDLE.run("train.json", **common, **more)
        states.append(dict(flow.parser.get_parsed_content("network_def").state_dict()))
    assert "/stage1.0.0.weight" in differing(*states)


def test_biases_and_norms_do_not_decay(lesions, trained):
    parser = BUNDLE.unstarted("train.json", **settings(lesions, trained[0]))
    decayed, kept = parser.get_parsed_content("optimizer").param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.05, 0.0)
    network = parser.get_parsed_content("network")
    assert {p.ndim for p in kept["params"]} == {1}
    assert min(p.ndim for p in decayed["params"]) == 2
    assert len(decayed["params"]) + len(kept["params"]) == len(list(network.parameters()))


def test_the_learning_rate_warms_up_and_falls_to_its_minimum(lesions, trained):
    parser = BUNDLE.unstarted("train.json", **settings(lesions, trained[0], epochs=30, learning_rate=5e-5))
    optimizer, scheduler = (parser.get_parsed_content(name) for name in ("optimizer", "lr_scheduler"))
    rates = []
    for _ in range(31):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    expected = [2e-5 + 3e-5 * epoch / 5 for epoch in range(5)]
    expected += [2e-5 + 1.5e-5 * (1 + np.cos(np.pi * epoch / 25)) for epoch in range(26)]
    np.testing.assert_allclose(rates, expected)


def test_the_teacher_is_trained_with_adam_at_a_constant_rate(lesions, tmp_path):
    values = settings(lesions, tmp_path)
    del values["learning_rate"]
    parser = BUNDLE.unstarted("train.json", "teacher.json", **values)
    optimizer = parser.get_parsed_content("optimizer")
    assert type(optimizer) is torch.optim.Adam
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.001, 0.0)]
    scheduler = parser.get_parsed_content("lr_scheduler")
    optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr() == [0.001]


def test_training_pictures_are_augmented_and_cached_ones_are_not(lesions, trained):
    """Every epoch draws anew; without augmentation a picture is what the network validates on, or its mirror image."""
    parser = BUNDLE.unstarted("train.json", **settings(lesions, trained[0]))
    dataset = parser.get_parsed_content("train#dataset")
    first, second = (dataset[0]["image"] for _ in range(2))
    assert first.shape == (3, 32, 32)
    assert first.dtype == torch.float32
    assert not torch.equal(first, second)
    still = {"rotation": 0.0, "brightness": 0.0, "contrast": 0.0, "sharpen_prob": 0.0, "blur": [1e-3, 1e-3]}
    parser = BUNDLE.unstarted("train.json", **settings(lesions, trained[0], **still))
    item, listed = parser.get_parsed_content("train#dataset")[0], parser.get_parsed_content("labelled")[0]
    picture = normalised(listed["image"])
    flipped = [picture, picture.flip(1), picture.flip(2), picture.flip(1, 2)]
    assert any(torch.allclose(item["image"], view, atol=1e-3) for view in flipped)
    assert sorted(item) == ["image", "label"]


@pytest.fixture(scope="module")
def unbalanced(tmp_path_factory):
    """Pictures as unbalanced as the real ones."""
    return make_lesion_images(tmp_path_factory.mktemp("data") / "unbalanced", count=120, size=32)


SMOTE = {"smote_neighbors": 1, "smote_targets": {"df": 8, "vasc": 20}}


def test_synthetic_pictures_are_trained_on_as_the_others(unbalanced, trained):
    """They count in weights and steps, and are augmented; nothing is made of what is not trained on."""
    parser = BUNDLE.unstarted(
        "train.json", "smote.json", **settings(unbalanced, trained[0], **SMOTE, labelled_fraction=0.7)
    )
    content = parser.get_parsed_content
    labelled, synthetic, dataset = (content(name) for name in ("labelled", "synthetic", "train#dataset"))
    datalist = ham10000_datalist(unbalanced, labelled_fraction=0.7)
    listed = [item for item in datalist["training"] if "label" in item]
    assert labelled == listed + synthetic
    totals = np.bincount([item["label"] for item in labelled], minlength=7)
    expected = np.bincount([item["label"] for item in listed], minlength=7)
    assert expected[3] < 8
    assert expected[6] < 20
    expected[[3, 6]] = 8, 20
    assert totals.tolist() == expected.tolist()
    torch.testing.assert_close(content("loss_function").weight, torch.tensor(totals.sum() / totals).float())
    assert len(dataset) == len(labelled)
    assert content("epoch_length") == -(-(len(datalist["training"]) + len(synthetic)) // 8)
    assert len(content("validate#dataset")) == len(datalist["validation"])
    files_of_df = np.stack([seen(item["image"]).numpy() for item in listed if item["label"] == 3])
    for index, item in enumerate(synthetic):
        if item["label"] == 3:
            assert (item["image"] >= files_of_df.min(0)).all()
            assert (item["image"] <= files_of_df.max(0)).all()
        first, second = (dataset[len(listed) + index] for _ in range(2))
        assert not torch.equal(first["image"], second["image"])
        assert (first["image"].shape, first["image"].dtype, first["label"]) == (
            (3, 32, 32),
            torch.float32,
            item["label"],
        )
    assert sorted(first) == sorted(dataset[0])
    still = {"rotation": 0.0, "brightness": 0.0, "contrast": 0.0, "sharpen_prob": 0.0, "blur": [1e-3, 1e-3]}
    parser = BUNDLE.unstarted("train.json", "smote.json", **settings(unbalanced, trained[0], **SMOTE, **still))
    picture = standardised(torch.from_numpy(parser.get_parsed_content("synthetic")[0]["image"]))
    dataset, files = (parser.get_parsed_content(name) for name in ("train#dataset", "originals"))
    flipped = [picture, picture.flip(1), picture.flip(2), picture.flip(1, 2)]
    assert any(torch.allclose(dataset[len(files)]["image"], view, atol=1e-3) for view in flipped)


def test_a_stopped_run_with_synthetic_pictures_goes_on_as_if_it_had_not_been(unbalanced, tmp_path):
    """They are the same when made again, and drawn in the same order."""
    names, more = ("train.json", "smote.json", "teacher.json"), {**SMOTE, "epochs": 2}
    whole, halves = (tmp_path / name for name in ("whole", "halves"))
    BUNDLE.run(*names, **settings(unbalanced, whole, **more))
    flow = BUNDLE.workflow(*names, **settings(unbalanced, halves, **more))
    flow.initialize()
    trainer = flow.parser.get_parsed_content("train#trainer")
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=1), lambda engine: engine.terminate())
    flow.run()
    assert trainer.state.epoch == 1
    BUNDLE.run(*names, **settings(unbalanced, halves, **more, resume=True))
    for name in ("teacher.pt", "teacher_resume.pt"):
        assert differing(weights(halves / "models" / name), weights(whole / "models" / name)) == [], name


def test_synthetic_pictures_change_the_student_and_not_the_evaluation(unbalanced, tmp_path):
    states, common = [], settings(unbalanced, tmp_path, **TINY_TEACHER, epochs=1)
    BUNDLE.run("train.json", "smote.json", "teacher.json", **common, **SMOTE)
    for more, keys in ((["smote.json"], SMOTE), ([], {"epoch_length": 13})):
        flow = BUNDLE.run("train.json", *more, **common, **keys)
        states.append(dict(flow.parser.get_parsed_content("network_def").state_dict()))
    assert "/stage1.0.0.weight" in differing(*states)
    flow = BUNDLE.workflow("train.json", "smote.json", "evaluate.json", **common, synthetic="$1 / 0")  # not made
    flow.initialize()
    flow.run()
    assert load_evaluations(tmp_path / "eval")["distilled"].cases == len(ham10000_datalist(unbalanced)["test"])


def test_too_few_pictures_for_smote(unbalanced, tmp_path):
    message = BUNDLE.message_of("train.json", "smote.json", "teacher.json", **settings(unbalanced, tmp_path))
    assert "classes with too few labelled pictures for k_neighbors=5" in message
    assert "lower k_neighbors" in message
    assert files(tmp_path) == []


def test_brain_slices_teach_four_classes(tmp_path):
    root = make_brain_mri_images(tmp_path / "slices", count=40, size=32)
    common = settings(root, tmp_path, epochs=1)
    BUNDLE.run("train.json", "brain_mri.json", "teacher.json", **common)
    BUNDLE.run("train.json", "brain_mri.json", **common)
    BUNDLE.run("train.json", "brain_mri.json", "evaluate.json", **common)
    plain_student(classes=4).load_state_dict(weights(tmp_path / "models" / "model.pt"), strict=True)
    plain_teacher(classes=4).load_state_dict(weights(tmp_path / "models" / "teacher.pt"), strict=True)
    found = load_evaluations(tmp_path / "eval")["distilled"]
    assert found.cases == len(brain_mri_datalist(root)["test"])
    assert {f"recall_{name}" for name in BRAIN_MRI_CLASSES} < set(found.scores)


def test_demo_settings_fit_training_and_evaluation(tmp_path, monkeypatch):
    """Every stage of the demo resolves, on fewer and smaller pictures and one epoch."""
    monkeypatch.chdir(tmp_path)
    short = {"bundle_root": str(BUNDLE.folder), "device": "cpu", "images": 110, "image_size": 32, "epochs": 1}
    for more in (["teacher.json"], ["baseline.json"], [], ["evaluate.json"]):
        BUNDLE.run("train.json", "demo.json", *more, **short)
    assert set(load_evaluations(tmp_path / "demo_output" / "hdkd_eval")) == {"distilled"}
    assert {"model.pt", "teacher.pt", "baseline.pt"} < set(files(tmp_path / "demo_output" / "hdkd_models"))
    assert not list(tmp_path.glob("models")) + list(tmp_path.glob("eval"))


# --- evaluation and inference ---------------------------------------------------------------------------------------


def test_evaluation_scores_what_the_networks_say(lesions, trained, capsys):
    folder, _, _ = trained
    networks = {
        "teacher": (plain_teacher(), "teacher.pt"),
        "baseline": (plain_student(distill_token=False), "baseline.pt"),
        "distilled": (plain_student(), "model.pt"),
    }
    items = ham10000_datalist(lesions)["test"]
    for name, (network, checkpoint) in networks.items():
        BUNDLE.run(
            "train.json",
            *([] if name == "distilled" else [f"{name}.json"]),
            "evaluate.json",
            **settings(lesions, folder),
        )
        network.load_state_dict(weights(folder / "models" / checkpoint))
        rows = table(folder / "eval" / f"{name}.predictions.csv")
        assert [row["image"] for row in rows] == [item["image"] for item in items]
        with torch.no_grad():
            expected = network.eval()(torch.stack([normalised(item["image"]) for item in items])).softmax(dim=1)
        probabilities = torch.tensor([[float(row[name]) for name in HAM10000_CLASSES] for row in rows])
        torch.testing.assert_close(probabilities, expected, rtol=1e-4, atol=1e-5)
        found = load_evaluations(folder / "eval")[name]
        right = [int(row["class"] == HAM10000_CLASSES[item["label"]]) for row, item in zip(rows, items)]
        assert found.scores["accuracy"] == pytest.approx(sum(right) / len(items))
        assert found.cost.parameters == sum(p.numel() for p in network.parameters())
    assert report([str(folder / "eval"), "--score", "balanced_accuracy"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in networks)


@pytest.mark.parametrize(
    ("checkpoint", "distill_token", "saliency"), [("model.pt", True, True), ("baseline.pt", False, False)]
)
def test_inference_writes_what_the_network_says(lesions, trained, tmp_path, checkpoint, distill_token, saliency):
    if saliency:
        pytest.importorskip("matplotlib")
    folder, _, _ = trained
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    Image.fromarray(lesion_image(4, (33, 90))).save(pictures / "wide.jpg")
    Image.fromarray(lesion_image(1, 40)).convert("L").save(pictures / "grey.png")
    Image.fromarray(lesion_image(2, 40)).convert("RGBA").save(pictures / "clear.png")
    common = settings(pictures, tmp_path, output_dir=str(tmp_path / "out"), ckpt_dir=str(folder / "models"))
    kept = {"bundle_root", "dataset_dir", "ckpt_dir", "output_dir", "device", "image_size", "num_workers", *TINY}
    common = {key: value for key, value in common.items() if key in kept}
    more = {"checkpoint": checkpoint, "distill_token": distill_token, "saliency": saliency}
    BUNDLE.run("inference.json", kind="infer", **common, **more)
    rows = table(tmp_path / "out" / "predictions.csv")
    assert sorted(row["image"] for row in rows) == files(pictures)
    network = plain_student(distill_token).eval()
    network.load_state_dict(weights(folder / "models" / checkpoint))
    for row in rows:
        with torch.no_grad():
            expected = network(normalised(pictures / row["image"])[None]).softmax(dim=1)[0]
        probabilities = torch.tensor([float(row[name]) for name in HAM10000_CLASSES])
        torch.testing.assert_close(probabilities, expected, rtol=1e-4, atol=1e-5)
        assert row["class"] == HAM10000_CLASSES[int(expected.argmax())]
    drawn = {f"saliency/{row['image']}.{row['class']}.png" for row in rows} if saliency else set()
    assert set(files(tmp_path / "out")) == {"predictions.csv"} | drawn


# --- a stopped run --------------------------------------------------------------------------------------------------


def test_a_stopped_run_goes_on_as_if_it_had_not_been(lesions, trained, tmp_path):
    folder, _, _ = trained
    more = {"teacher_checkpoint": str(folder / "models" / "teacher.pt"), "epochs": 4, "labelled_fraction": 0.5}
    whole, halves = (tmp_path / name for name in ("whole", "halves"))
    BUNDLE.run("train.json", **settings(lesions, whole, **more))
    flow = BUNDLE.workflow("train.json", **settings(lesions, halves, **more))
    flow.initialize()
    trainer = flow.parser.get_parsed_content("train#trainer")

    def fail():
        raise KeyboardInterrupt

    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2 * trainer.state.epoch_length + 1), fail)
    with pytest.raises(KeyboardInterrupt):
        flow.run()
    before = weights(halves / "models" / "distilled_resume.pt")
    assert before["trainer"]["epoch"] == 2
    BUNDLE.run("train.json", **settings(lesions, halves, **more, resume=True))
    names = ["distilled_resume.pt", "distilled_resume.pt.previous", "model.pt"]
    assert files(halves / "models") == files(whole / "models") == names
    for name in names:
        assert differing(weights(halves / "models" / name), weights(whole / "models" / name)) == [], name
    histories = [table(folder / "eval" / "distilled.history.csv") for folder in (halves, whole)]
    assert histories[0] == histories[1]
    assert [row["epoch"] for row in histories[0]] == ["1", "2", "3", "4"]
    changed = differing(before["objects"], weights(whole / "models" / "distilled_resume.pt")["objects"])
    for part in ("network/", "optimizer/", "lr_scheduler/"):
        assert any(key.startswith(f"/{part}") for key in changed)


def test_a_run_of_another_length_is_not_resumed(lesions, trained):
    message = BUNDLE.message_of("train.json", **settings(lesions, trained[0], epochs=3, resume=True))
    assert "'warmup_schedule' was planned with total_iters=1, here with 2" in message
    message = BUNDLE.message_of("train.json", **settings(lesions, trained[0], epochs=3, warmup_epochs=1, resume=True))
    assert "'cosine_schedule' was planned with T_max=1, here with 2" in message


# --- what is wrong --------------------------------------------------------------------------------------------------


def test_a_teacher_of_another_network_is_one_clear_line_from_the_command_line(lesions, trained, tmp_path):
    folder, _, _ = trained
    wrong = settings(lesions, tmp_path, teacher_checkpoint=str(folder / "models" / "baseline.pt"))
    status, shown, _ = BUNDLE.command(PYTHON, "train.json", **wrong)
    assert status == 1
    assert "Traceback" not in shown
    (line,) = [line for line in shown.splitlines() if line.startswith("error:")]
    assert "baseline.pt' does not fit HDKDTeacher" in line
    assert not (tmp_path / "models").exists()


def test_a_missing_teacher_says_what_to_do(lesions, tmp_path):
    message = BUNDLE.message_of("train.json", **settings(lesions, tmp_path))
    assert message.startswith(f"no checkpoint at '{tmp_path}/models/teacher.pt'. Train one first")
    assert files(tmp_path) == []


def test_stages_of_other_channels_are_refused(lesions, trained, tmp_path):
    folder, _, _ = trained
    common = settings(lesions, tmp_path, teacher_checkpoint=str(folder / "models" / "teacher.pt"))
    common["network_def#channels"] = [4, 6, 12, 16]
    message = BUNDLE.message_of("train.json", **common)
    assert "feature_stage3" in message
    assert files(tmp_path) == []


def test_any_image_size_trains(lesions, trained, tmp_path):
    folder, _, _ = trained
    more = {"image_size": 40, "epochs": 1, "teacher_checkpoint": str(folder / "models" / "teacher.pt")}
    BUNDLE.run("train.json", **settings(lesions, tmp_path, **more))
    HDKDStudent(2, 3, 7, 40, **STUDENT).load_state_dict(weights(tmp_path / "models" / "model.pt"))


# --- the documentation ----------------------------------------------------------------------------------------------


def test_the_commands_of_the_readme_give_keys_that_exist():
    runs = BUNDLE.readme_runs()
    assert len(runs) == 22
    for configs, given in runs:
        assert all((BUNDLE.folder / config).is_file() for config in configs)
        known = set().union(*(BUNDLE.own_keys(Path(config).name) for config in configs))
        assert [key for key in given if key.split("#")[0] not in known] == []
        assert not {"false", "null"} & set(given.values())  # words to the command line, not what they say


def test_the_table_of_the_readme_has_every_key():
    text = BUNDLE.readme()
    listed = {key for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    assert BUNDLE.own_keys("train.json") - listed == {"imports", "initialize", "run"}
    assert BUNDLE.own_keys("smote.json") - listed == {"train#dataset"}
    prose = set(re.findall(r"`(\w+)`", text[text.index("`inference.json` has") :]))
    parts = {"preprocessing", "dataset", "dataloader", "inferer", "postprocessing", "handlers", "evaluator", "weights"}
    assert BUNDLE.own_keys("inference.json") - prose == {"imports", "initialize", "run", *parts}


# --- real slices ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_epoch_on_real_slices(tmp_path):
    if "MONAI_KD_DATA" not in os.environ:
        pytest.skip("set MONAI_KD_DATA to the folder that holds brain_tumor_mri")
    root = Path(os.environ["MONAI_KD_DATA"]) / "brain_tumor_mri"
    common = settings(root, tmp_path, epochs=1, batch_size=32)
    BUNDLE.run("train.json", "brain_mri.json", "teacher.json", **common)
    BUNDLE.run("train.json", "brain_mri.json", **common)
    BUNDLE.run("train.json", "brain_mri.json", "evaluate.json", **common)
    found = load_evaluations(tmp_path / "eval")["distilled"]
    assert found.cases == len(brain_mri_datalist(root)["test"])
    assert 0 <= found.scores["accuracy"] <= 1
