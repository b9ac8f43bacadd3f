"""The bundle of endoscopy and several teachers from end to end on a handful of generated frames, with tiny networks."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import Image

from monai_kd.data import (
    HYPER_KVASIR_CLASSES,
    KVASIR_V2_CLASSES,
    endoscopy_frame,
    hyper_kvasir_datalist,
    kvasir_v2_datalist,
    scope_overlay_box,
)
from monai_kd.handlers import DistillationHandler
from monai_kd.losses import MultiTeacherAttentionFusion
from monai_kd.networks import TinyEndoNet
from monai_kd.report import load_evaluations
from monai_kd.report.__main__ import main as report

from .running import Bundle, differing, files, normalised, table, weights

pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = ["resnet50", "densenet121", "efficientnet_b0"]
STUDENT = {"channels": [8, 8, 16], "strides": [2, 2, 2]}
TINY = {f"network_def#{key}": value for key, value in STUDENT.items()}
TEACHERS = {
    "resnet50": {
        "_target_": "monai.networks.nets.ResNet",
        "block": "basic",
        "layers": [1, 1, 1, 1],
        "block_inplanes": [4, 4, 6, 8],
        "spatial_dims": 2,
        "n_input_channels": 3,
        "num_classes": "$len(@class_names)",
    },
    "densenet121": {
        "_target_": "monai.networks.nets.DenseNet",
        "spatial_dims": 2,
        "in_channels": 3,
        "out_channels": "$len(@class_names)",
        "init_features": 8,
        "growth_rate": 4,
        "block_config": [1, 1],
    },
    "efficientnet_b0": {
        "_target_": "monai.networks.nets.EfficientNet",
        "blocks_args_str": ["r1_k3_s11_e1_i32_o16_se0.25", "r1_k3_s22_e2_i16_o16_se0.25"],
        "num_classes": "$len(@class_names)",
        "width_coefficient": 0.05,
        "image_size": "@image_size",
    },
}
CHANNELS = {"resnet50": 8, "densenet121": 10, "efficientnet_b0": 64}


class MHAKD(Bundle):
    def workflow(self, *names, **overrides):
        """``teacher.json`` takes the teacher as the network."""
        if "teacher.json" in names:
            overrides = {key: value for key, value in overrides.items() if key not in TINY}
        return super().workflow(*names, **overrides)


BUNDLE = MHAKD("mhakd_gi_endoscopy_classification")


# --- frames and runs ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Six scenes of each class, so that every split has every class."""
    root = tmp_path_factory.mktemp("data") / "frames"
    rows = ["image,near_duplicate_group"]
    for index, name in enumerate(KVASIR_V2_CLASSES):
        (root / name).mkdir(parents=True)
        for scene in range(6):
            Image.fromarray(endoscopy_frame(index, (36, 44), seed=scene)).save(root / name / f"{scene}.jpg")
            rows.append(f"{name}/{scene}.jpg,{len(rows)}")
    (root / "groups.csv").write_text("\n".join(rows) + "\n")
    return root


def settings(data, folder, **more):
    return {
        **BUNDLE.places(data, folder),
        "image_size": 32,
        "positions": [4, 4],
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 0.001,
        "key_score": "macro_auc",  # of so few frames the finest
        "log_interval": 1000,
        "teachers_def": TEACHERS,
        "teacher_channels": CHANNELS,
        **TINY,
        **more,
    }


def plain_student(classes=8):
    return TinyEndoNet(num_classes=classes, **STUDENT)


def plain_teacher(name, classes=8):
    parser = ConfigParser({"network": TEACHERS[name], "class_names": list(range(classes)), "image_size": 32})
    return parser.get_parsed_content("network")


def teachers_of(folder, *names):
    """The keys with which a run takes some of the teachers of another folder, and finds no file of the others."""
    paths = {name: str(folder / "models" / f"teacher_{name}.pt") if name in names else "nowhere.pt" for name in NAMES}
    return {"teacher_checkpoints": paths}


@pytest.fixture(scope="module")
def trained(frames, tmp_path_factory):
    """Teachers, baseline and student in one folder, and the teachers' files and weights around the distillation."""
    folder = tmp_path_factory.mktemp("trained")
    for name in NAMES:
        BUNDLE.run("train.json", "teacher.json", **settings(frames, folder, teacher_name=name, epochs=1))
    BUNDLE.run("train.json", "baseline.json", **settings(frames, folder))
    before = {name: (folder / "models" / f"teacher_{name}.pt").read_bytes() for name in NAMES}
    flow = BUNDLE.run("train.json", **settings(frames, folder))
    return folder, before, flow


# --- training -------------------------------------------------------------------------------------------------------


def test_checkpoints_load_into_plain_networks(trained):
    folder, _, _ = trained
    networks = {f"teacher_{name}.pt": plain_teacher(name) for name in NAMES}
    for name, network in {**networks, "baseline.pt": plain_student(), "model.pt": plain_student()}.items():
        network.load_state_dict(weights(folder / "models" / name), strict=True)


def test_the_teachers_stay_as_they_were(trained):
    folder, before, flow = trained
    optimised = {id(p) for p in flow.parser.get_parsed_content("parameters")}
    for name, teacher in flow.parser.get_parsed_content("teachers").items():
        path = folder / "models" / f"teacher_{name}.pt"
        assert path.read_bytes() == before.pop(name)
        assert differing(dict(teacher.network.state_dict()), weights(path)) == []
        assert not teacher.network.training
        assert not any(id(p) in optimised for p in teacher.network.parameters())
    assert before == {}


def test_the_fusion_is_optimised_and_no_part_of_the_student(trained):
    folder, _, flow = trained
    fusion = flow.parser.get_parsed_content("fusion")
    optimised = {id(p) for p in flow.parser.get_parsed_content("parameters")}
    assert all(id(p) in optimised for p in fusion.parameters())
    assert fusion.score.weight.abs().max() > 0  # the mean over the teachers at first
    assert differing(dict(fusion.state_dict()), weights(folder / "models" / "distilled_fusion.pt")) == []
    assert weights(folder / "models" / "model.pt").keys() == plain_student().state_dict().keys()


def test_every_term_is_in_the_loss(frames, trained, tmp_path):
    more = {"feature_weight": 2.0, "response_weight": 3.0, "fusion_weight": 0.5, "epochs": 1}
    flow = BUNDLE.run("train.json", **settings(frames, tmp_path, **more, **teachers_of(trained[0], *NAMES)))
    output = flow.parser.get_parsed_content("train#trainer").state.output[0]  # of any image: they are of the batch
    terms = {"task_loss": 1.0, "fusion_task": 0.5, "fusion_hint": 2.0, "fusion_soft_target": 3.0}
    expected = sum(weight * output[name] for name, weight in terms.items())
    torch.testing.assert_close(torch.as_tensor(output["loss"]).detach(), torch.as_tensor(expected))
    assert all(output[name] > 0 for name in terms)


def test_the_default_networks_have_the_sizes_of_the_documentation(frames, tmp_path):
    flow = ConfigWorkflow(
        config_file=str(BUNDLE.configs / "train.json"),
        meta_file=None,
        logging_file=False,
        bundle_root=str(BUNDLE.folder),
        dataset_dir=str(frames),
        output_dir=str(tmp_path),
        device="cpu",
        teacher_checkpoints=dict.fromkeys(NAMES),
        initialize=[],
    )
    flow.initialize()
    parser = flow.parser
    parser.get_parsed_content("distiller")  # channels and positions fit: it ran once on zeros
    teachers = parser.get_parsed_content("teachers")
    assert {name: parameters(teacher.network) for name, teacher in teachers.items()} == {
        "resnet50": 23_524_424,
        "densenet121": 6_962_056,
        "efficientnet_b0": 4_017_796,
    }
    assert parameters(parser.get_parsed_content("network")) == 51_832
    fusion = parser.get_parsed_content("fusion")
    assert (fusion.channels, fusion.dimension, fusion.positions) == ((2048, 1024, 1280), 160, (7, 7))
    assert fusion.attention.num_heads == 8
    assert fusion.query == "teachers"


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"teacher_names": ["densenet121"]}, ["fusion_task", "fusion_hint"]),
        ({"teacher_names": ["efficientnet_b0", "resnet50"]}, ["fusion_task", "fusion_hint"]),
        ({"response_weight": 1.0, "num_heads": 2}, ["fusion_task", "fusion_hint", "fusion_soft_target"]),
        ({"feature_weight": 0.0, "query": "student"}, ["fusion_task"]),
    ],
)
def test_keys_of_the_ablations(frames, trained, more, expected):
    used = more.get("teacher_names", NAMES)
    parser = BUNDLE.unstarted("train.json", **settings(frames, trained[0], **more, **teachers_of(trained[0], *used)))
    assert list(parser.get_parsed_content("distiller").terms) == expected
    assert sorted(parser.get_parsed_content("teachers")) == sorted(used)
    fusion = parser.get_parsed_content("fusion")
    assert fusion.channels == tuple(CHANNELS[name] for name in used)
    assert fusion.attention.num_heads == more.get("num_heads", 8)
    assert fusion.query == more.get("query", "teachers")


def test_unused_teachers_are_not_even_built(frames, tmp_path):
    """Of the default networks, which take time and memory."""
    more = {"teacher_names": ["densenet121"], "teacher_checkpoints": dict.fromkeys(NAMES)}
    values = settings(frames, tmp_path, **more)
    del values["teachers_def"]
    parser = BUNDLE.unstarted("train.json", **values)
    assert list(parser.get_parsed_content("teachers_def")) == ["densenet121"]


def test_a_fusion_alone_leaves_the_student_the_baseline_bit_for_bit(frames, trained, tmp_path):
    """Teachers and fusion leave the student's random numbers alone, and the fusion's loss its gradients."""
    common = settings(frames, tmp_path, feature_weight=0.0, query="student", **teachers_of(trained[0], *NAMES))
    BUNDLE.run("train.json", **common)
    assert differing(weights(tmp_path / "models" / "model.pt"), weights(trained[0] / "models" / "baseline.pt")) == []


def test_distillation_changes_the_student(frames, trained, tmp_path):
    BUNDLE.run("train.json", **settings(frames, tmp_path, **teachers_of(trained[0], *NAMES)))  # as the fixture did
    student = weights(tmp_path / "models" / "model.pt")
    assert differing(student, weights(trained[0] / "models" / "model.pt")) == []
    assert "/features.0.conv.weight" in differing(student, weights(trained[0] / "models" / "baseline.pt"))


def test_a_trained_fusion_is_taken_as_it_is(frames, trained, tmp_path):
    """The second of two phases."""
    first = trained[0] / "models" / "distilled_fusion.pt"
    more = {"fusion_checkpoint": str(first), "fusion_weight": 0.0, "epochs": 1}
    BUNDLE.run("train.json", **settings(frames, tmp_path, **more, **teachers_of(trained[0], *NAMES)))
    assert differing(weights(tmp_path / "models" / "distilled_fusion.pt"), weights(first)) == []
    fusion = MultiTeacherAttentionFusion(list(CHANNELS.values()), 8, 16, positions=(4, 4))
    fusion.load_state_dict(weights(first), strict=True)


def test_unlabelled_frames_teach(frames, trained, tmp_path):
    common = settings(frames, tmp_path, epochs=1, labelled_fraction=0.5, **teachers_of(trained[0], *NAMES))
    states = []
    for more in ({}, {"unlabelled_loader": None}):
        flow = BUNDLE.run("train.json", **common, **more)
        states.append(dict(flow.parser.get_parsed_content("network_def").state_dict()))
    assert "/features.0.conv.weight" in differing(*states)


@pytest.mark.parametrize(
    ("config", "more", "terms", "task_weight"),
    [
        ("response", {"teacher_name": "densenet121", "alpha": 0.7}, {"soft_target": 0.7}, 0.3),
        ("feature", {"teacher_name": "efficientnet_b0"}, {"feature_efficientnet_b0__swish_1": 1.0}, 1.0),
        ("mean_teachers", {}, {"mean_soft_target": 0.5}, 0.5),
        (
            "mean_teachers",
            {"teacher_weights": [2, 1], "teacher_names": NAMES[:2], "feature_weight": 1.0},
            {"mean_soft_target": 0.5, "feature_resnet50_layer4": 0.5, "feature_densenet121_class_layers_relu": 0.5},
            0.5,
        ),
    ],
)
def test_the_plainer_methods_train_and_evaluate(frames, trained, tmp_path, config, more, terms, task_weight):
    """Without the files of the teachers that they do not use."""
    used = [more["teacher_name"]] if "teacher_name" in more else more.get("teacher_names", NAMES)
    common = settings(frames, tmp_path, epochs=1, **more, **teachers_of(trained[0], *used))
    flow = BUNDLE.run("train.json", f"{config}.json", **common)
    assert flow.parser.get_parsed_content("distiller").weights(1) == terms
    handlers = flow.parser.get_parsed_content("train#handlers")
    assert [h.task_weight for h in handlers if isinstance(h, DistillationHandler)] == [pytest.approx(task_weight)]
    name = "_".join([config, *(used if "teacher_name" in more else [])])
    assert files(tmp_path / "models") == [f"distilled_{name}.pt", f"{name}_resume.pt"]
    plain_student().load_state_dict(weights(tmp_path / "models" / f"distilled_{name}.pt"), strict=True)
    BUNDLE.run("train.json", f"{config}.json", "evaluate.json", **common)
    assert set(load_evaluations(tmp_path / "eval")) == {name}


def test_features_of_several_teachers_without_attention(frames, trained):
    more = {"teacher_names": NAMES[:2], **teachers_of(trained[0], *NAMES[:2])}
    parser = BUNDLE.unstarted("train.json", "feature.json", **settings(frames, trained[0], **more))
    weights = parser.get_parsed_content("distiller").weights(1)
    assert weights == {"feature_resnet50_layer4": 0.5, "feature_densenet121_class_layers_relu": 0.5}


def test_teachers_have_a_length_and_a_rate_of_their_own(frames, tmp_path):
    values = settings(frames, tmp_path)
    del values["epochs"], values["learning_rate"]
    parser = BUNDLE.unstarted("train.json", "teacher.json", **values)
    assert (parser.get_parsed_content("epochs"), parser.get_parsed_content("learning_rate")) == (30, 1e-4)
    assert type(parser.get_parsed_content("network")).__name__ == "ResNet"


@pytest.mark.parametrize(
    ("key", "argument", "value"),
    [
        ("fold", "fold", 1),
        ("folds", "folds", 3),
        ("val_fraction", "val_fraction", 0.4),
        ("labelled_fraction", "labelled_fraction", 0.5),
        ("split_seed", "seed", 7),
    ],
)
def test_keys_of_the_split(frames, tmp_path, key, argument, value):
    parser = BUNDLE.unstarted("train.json", **settings(frames, tmp_path, **{key: value}))
    found = parser.get_parsed_content("datalist")
    assert found == kvasir_v2_datalist(frames, **{argument: value}) != kvasir_v2_datalist(frames)


def test_keys_of_the_losses(frames, trained):
    common = settings(frames, trained[0], temperature=2.0, weight_decay=0.3, **teachers_of(trained[0], *NAMES))
    parser = BUNDLE.unstarted("train.json", **common, response_weight=1.0)
    terms = parser.get_parsed_content("distiller").terms
    assert terms["fusion_soft_target"].loss.soft_target.temperature == 2
    assert terms["fusion_task"].loss.task_loss is parser.get_parsed_content("loss_function")
    assert parser.get_parsed_content("optimizer").param_groups[0]["weight_decay"] == 0.3
    parser = BUNDLE.unstarted("train.json", "response.json", **common)
    assert parser.get_parsed_content("distiller").terms["soft_target"].loss.temperature == 2
    parser = BUNDLE.unstarted("train.json", "mean_teachers.json", **common, teacher_weights=[2, 1, 1])
    mean = parser.get_parsed_content("distiller").terms["mean_soft_target"].loss
    assert (mean.temperature, mean.weights) == (2, [0.5, 0.25, 0.25])
    parser = BUNDLE.unstarted("train.json", "feature.json", **common, feature_weight=0.7)
    assert list(parser.get_parsed_content("distiller").weights(1).values()) == [0.7]


def test_the_learning_rate_falls_along_a_cosine(frames, trained):
    parser = BUNDLE.unstarted("train.json", **settings(frames, trained[0], epochs=30))
    optimizer, scheduler = (parser.get_parsed_content(name) for name in ("optimizer", "lr_scheduler"))
    rates = []
    for _ in range(31):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    np.testing.assert_allclose(rates, [5e-4 * (1 + np.cos(np.pi * epoch / 30)) for epoch in range(31)], atol=1e-12)


def test_training_frames_are_augmented_and_cached_ones_are_not(frames, trained):
    """Every epoch draws anew; without augmentation a frame is what the network validates on, turned or mirrored."""
    parser = BUNDLE.unstarted("train.json", **settings(frames, trained[0]))
    dataset = parser.get_parsed_content("train#dataset")
    first, second = (dataset[0]["image"] for _ in range(2))
    assert first.shape == (3, 32, 32)
    assert first.dtype == torch.float32
    assert not torch.equal(first, second)
    still = {"rotation": 0.0, "brightness": 0.0, "contrast": 0.0, "colour": 0.0}
    parser = BUNDLE.unstarted("train.json", **settings(frames, trained[0], **still))
    item, listed = parser.get_parsed_content("train#dataset")[0], parser.get_parsed_content("labelled")[0]
    turned = [normalised(listed["image"]).rot90(k, (1, 2)) for k in range(4)]
    views = [*turned, *(view.flip(1) for view in turned)]
    assert any(torch.allclose(item["image"], view, atol=1e-3) for view in views)
    assert sorted(item) == ["image", "label"]


def test_keys_of_the_augmentation(frames, tmp_path):
    strength = {"rotation": 20.0, "brightness": 0.3, "contrast": 0.4, "colour": 0.2}
    parser = BUNDLE.unstarted("train.json", **settings(frames, tmp_path, **strength))
    transforms = {}
    for transform in parser.get_parsed_content("train#random_transforms"):
        transforms.setdefault(type(transform).__name__, []).append(transform)
    (rotation,) = transforms["RandRotated"]
    assert rotation.rand_rotate.range_x == pytest.approx((-np.pi / 9, np.pi / 9))
    brightness, colour = (transform.scaler for transform in transforms["RandScaleIntensityd"])
    (contrast,) = (transform.scaler for transform in transforms["RandScaleIntensityFixedMeand"])
    assert (brightness.factors, brightness.channel_wise) == ((-0.3, 0.3), False)
    assert (colour.factors, colour.channel_wise) == ((-0.2, 0.2), True)
    assert contrast.factors == (-0.4, 0.4)


def test_a_teacher_can_have_pictures_of_its_own_size(frames, trained, tmp_path):
    more = {"teachers#densenet121#transform": "$torch.nn.Upsample(size=(48, 48), mode='bilinear')", "epochs": 1}
    flow = BUNDLE.run("train.json", **settings(frames, tmp_path, **more, **teachers_of(trained[0], *NAMES)))
    teachers = flow.parser.get_parsed_content("teachers")
    batch = {"image": torch.zeros(1, 3, 32, 32)}
    sizes = {
        name: teachers[name](batch, [tap])[tap].shape[-1]
        for name, tap in (("resnet50", "conv1"), ("densenet121", "features.conv0"))
    }
    assert sizes == {"resnet50": 32, "densenet121": 24}


def test_a_teacher_can_have_another_normalisation(frames, trained, tmp_path):
    """The README's example: back to 0..255, then to 0..1."""
    transform = re.search(r"--teachers#resnet50#transform '([^']*)'", BUNDLE.readme())[1]
    more = {"teachers#resnet50#transform": transform}
    parser = BUNDLE.unstarted("train.json", **settings(frames, tmp_path, **more, **teachers_of(trained[0], *NAMES)))
    found = parser.get_parsed_content("teachers")["resnet50"].transform(torch.zeros(1, 3, 2, 2))
    expected = torch.tensor([123.675, 116.28, 103.53]) / 255
    torch.testing.assert_close(found, expected.view(1, 3, 1, 1).expand(1, 3, 2, 2))


def test_hyper_kvasir_teaches_its_classes(tmp_path):
    root = tmp_path / "hyper"
    rows = ["file-name;class-name;split-index"]
    generator = np.random.default_rng(0)
    for name in HYPER_KVASIR_CLASSES:
        (root / "labeled-images" / name).mkdir(parents=True)
        for index in range(6):
            noise = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / "labeled-images" / name / f"{name}-{index}.jpg")
            rows.append(f"{name}-{index}.jpg;{name};{index % 2}")
    (root / "2_fold_split.csv").write_text("\n".join(rows))
    common = settings(root, tmp_path, epochs=1, batch_size=16, teacher_checkpoints=dict.fromkeys(NAMES))
    BUNDLE.run("train.json", "hyper_kvasir.json", **common)
    BUNDLE.run("train.json", "hyper_kvasir.json", "evaluate.json", **common)
    plain_student(classes=23).load_state_dict(weights(tmp_path / "models" / "model.pt"), strict=True)
    found = load_evaluations(tmp_path / "eval")["distilled"]
    assert found.cases == len(hyper_kvasir_datalist(root)["test"])
    assert {f"recall_{name}" for name in HYPER_KVASIR_CLASSES} < set(found.scores)
    keys = {"fold": 1, "val_fraction": 0.4, "labelled_fraction": 0.5}
    parser = BUNDLE.unstarted("train.json", "hyper_kvasir.json", **common, **keys, split_seed=7)
    assert parser.get_parsed_content("datalist") == hyper_kvasir_datalist(root, **keys, seed=7)
    names = BUNDLE.unstarted("inference.json", class_names="$list(HYPER_KVASIR_CLASSES)").get_parsed_content(
        "class_names"
    )
    assert names == json.loads((BUNDLE.configs / "hyper_kvasir.json").read_text(encoding="utf-8"))["class_names"]


def test_demo_settings_fit_training_and_evaluation(tmp_path, monkeypatch):
    """Every stage of the demo resolves, on fewer frames and one epoch."""
    monkeypatch.chdir(tmp_path)
    short = {"bundle_root": str(BUNDLE.folder), "device": "cpu", "images": 110, "epochs": 1, "log_interval": 1000}
    for name in NAMES:
        BUNDLE.run("train.json", "demo.json", "teacher.json", **short, teacher_name=name)
    for more in (["baseline.json"], ["mean_teachers.json"], [], ["evaluate.json"]):
        BUNDLE.run("train.json", "demo.json", *more, **short)
    assert set(load_evaluations(tmp_path / "demo_output" / "mhakd_eval")) == {"distilled"}
    made = {"model.pt", "baseline.pt", "distilled_mean_teachers.pt", *(f"teacher_{name}.pt" for name in NAMES)}
    assert made < set(files(tmp_path / "demo_output" / "mhakd_models"))
    assert not list(tmp_path.glob("models")) + list(tmp_path.glob("eval"))


# --- evaluation and inference ---------------------------------------------------------------------------------------


def test_evaluation_scores_what_the_networks_say(frames, trained, tmp_path, capsys):
    folder, _, _ = trained
    items = kvasir_v2_datalist(frames)["test"]
    for name, configs, checkpoint, network in (
        ("teacher_densenet121", ["teacher.json"], "teacher_densenet121.pt", plain_teacher("densenet121")),
        ("baseline", ["baseline.json"], "baseline.pt", plain_student()),
        ("distilled", [], "model.pt", plain_student()),
    ):
        common = settings(frames, folder, output_dir=str(tmp_path))
        if configs == ["teacher.json"]:
            common["teacher_name"] = "densenet121"
        BUNDLE.run("train.json", *configs, "evaluate.json", **common)
        network.load_state_dict(weights(folder / "models" / checkpoint))
        rows = table(tmp_path / f"{name}.predictions.csv")
        assert [row["image"] for row in rows] == [item["image"] for item in items]
        with torch.no_grad():
            expected = network.eval()(torch.stack([normalised(item["image"]) for item in items])).softmax(dim=1)
        probabilities = torch.tensor([[float(row[name]) for name in KVASIR_V2_CLASSES] for row in rows])
        torch.testing.assert_close(probabilities, expected, rtol=1e-4, atol=1e-5)
        found = load_evaluations(tmp_path)[name]
        right = [int(row["class"] == KVASIR_V2_CLASSES[item["label"]]) for row, item in zip(rows, items)]
        assert found.scores["accuracy"] == pytest.approx(sum(right) / len(items))
        assert found.cost.parameters == parameters(network)
    assert report([str(tmp_path), "--score", "balanced_accuracy"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("teacher_densenet121", "baseline", "distilled"))


@pytest.mark.parametrize("mask_overlay", [False, True])
def test_inference_writes_what_the_network_says(trained, tmp_path, mask_overlay):
    """With the green picture of the scope's position hidden, if that is asked for, before the frame is resized."""
    folder, _, _ = trained
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    shown = endoscopy_frame(5, (60, 90), seed=1)
    shown[40:56, 4:28] = (15, 165, 136)
    Image.fromarray(shown).save(pictures / "position.png")
    Image.fromarray(endoscopy_frame(4, 40)).convert("RGBA").save(pictures / "clear.png")
    saliency = mask_overlay
    if saliency:
        pytest.importorskip("matplotlib")
    common = settings(pictures, tmp_path, output_dir=str(tmp_path / "out"), ckpt_dir=str(folder / "models"))
    kept = {"bundle_root", "dataset_dir", "ckpt_dir", "output_dir", "device", "image_size", "num_workers", *TINY}
    common = {key: value for key, value in common.items() if key in kept}
    BUNDLE.run("inference.json", kind="infer", **common, mask_overlay=mask_overlay, saliency=saliency)
    rows = table(tmp_path / "out" / "predictions.csv")
    assert sorted(row["image"] for row in rows) == files(pictures)
    network = plain_student().eval()
    network.load_state_dict(weights(folder / "models" / "model.pt"))
    hidden = {"position.png": (slice(39, 57), slice(3, 29))} if mask_overlay else {}  # with the margin, a pixel
    for row in rows:
        with torch.no_grad():
            seen = normalised(pictures / row["image"], hidden=hidden.get(row["image"]))
            expected = network(seen[None]).softmax(dim=1)[0]
        probabilities = torch.tensor([float(row[name]) for name in KVASIR_V2_CLASSES])
        torch.testing.assert_close(probabilities, expected, rtol=1e-4, atol=1e-5)
        assert row["class"] == KVASIR_V2_CLASSES[int(expected.argmax())]
    drawn = {f"saliency/{row['image']}.{row['class']}.png" for row in rows} if saliency else set()
    assert set(files(tmp_path / "out")) == {"predictions.csv"} | drawn


def test_training_hides_the_scopes_position_if_asked(frames, trained, tmp_path):
    root = tmp_path / "frames"
    shutil.copytree(frames, root)
    for path in root.glob("*/*.jpg"):
        pixels = np.array(Image.open(path))
        pixels[24:33, 2:14] = (15, 165, 136)
        Image.fromarray(pixels).save(path, quality=95)
    found = {}
    for mask_overlay in (False, True):
        parser = BUNDLE.unstarted("train.json", **settings(root, trained[0], mask_overlay=mask_overlay, rotation=0.0))
        for part in ("train", "validate"):
            image = parser.get_parsed_content(f"{part}#dataset")[0]["image"]
            mean, std = (torch.tensor(parser[key]).view(3, 1, 1) for key in ("mean", "std"))
            turned = [(image * std + mean).clamp(0, 255).rot90(k, (1, 2)) for k in range(4)]
            views = [*turned, *(view.flip(1) for view in turned)]
            found[mask_overlay, part] = any(scope_overlay_box(view) is not None for view in views)
    assert found == {(mask, part): not mask for mask in (False, True) for part in ("train", "validate")}


# --- a stopped run --------------------------------------------------------------------------------------------------


def test_a_stopped_run_goes_on_as_if_it_had_not_been(frames, trained, tmp_path):
    more = {"epochs": 4, "labelled_fraction": 0.5, **teachers_of(trained[0], *NAMES)}
    whole, halves = (tmp_path / name for name in ("whole", "halves"))
    BUNDLE.run("train.json", **settings(frames, whole, **more))
    flow = BUNDLE.workflow("train.json", **settings(frames, halves, **more))
    flow.initialize()
    trainer = flow.parser.get_parsed_content("train#trainer")

    def fail():
        raise KeyboardInterrupt

    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2 * trainer.state.epoch_length + 1), fail)
    with pytest.raises(KeyboardInterrupt):
        flow.run()
    before = weights(halves / "models" / "distilled_resume.pt")
    assert before["trainer"]["epoch"] == 2
    BUNDLE.run("train.json", **settings(frames, halves, **more, resume=True))
    names = ["distilled_fusion.pt", "distilled_resume.pt", "distilled_resume.pt.previous", "model.pt"]
    assert files(halves / "models") == files(whole / "models") == names
    for name in names:
        assert differing(weights(halves / "models" / name), weights(whole / "models" / name)) == [], name
    histories = [table(folder / "eval" / "distilled.history.csv") for folder in (halves, whole)]
    assert histories[0] == histories[1]
    assert [row["epoch"] for row in histories[0]] == ["1", "2", "3", "4"]
    changed = differing(before["objects"], weights(whole / "models" / "distilled_resume.pt")["objects"])
    for part in ("network/", "optimizer/", "lr_scheduler/", "distiller/"):
        assert any(key.startswith(f"/{part}") for key in changed)


# --- what is wrong --------------------------------------------------------------------------------------------------


def test_a_missing_teacher_is_named(frames, trained, tmp_path):
    common = settings(frames, tmp_path, **teachers_of(trained[0], "resnet50", "efficientnet_b0"))
    common["teacher_checkpoints"]["densenet121"] = str(tmp_path / "weights.pt")
    message = BUNDLE.message_of("train.json", **common)
    assert message.startswith(f"teacher 'densenet121': no checkpoint at '{tmp_path}/weights.pt'. Train one first")
    assert files(tmp_path) == []


def test_a_teacher_of_another_network_is_named(frames, trained, tmp_path):
    common = settings(frames, tmp_path, **teachers_of(trained[0], *NAMES))
    common["teacher_checkpoints"]["densenet121"] = str(trained[0] / "models" / "teacher_resnet50.pt")
    message = BUNDLE.message_of("train.json", **common)
    assert message.startswith("teacher 'densenet121': ")
    assert "teacher_resnet50.pt' does not fit DenseNet: 0 of" in message.splitlines()[0]
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("configs", "more"),
    [(["train.json"], {"teacher_names": ["resnet51"]}), (["train.json", "teacher.json"], {"teacher_name": "resnet51"})],
)
def test_an_unknown_teacher_is_named(frames, tmp_path, configs, more):
    message = BUNDLE.message_of(*configs, **settings(frames, tmp_path, **more))
    assert message == "no teacher is named 'resnet51'; known: resnet50, densenet121, efficientnet_b0."


def test_a_map_of_another_size_is_refused(frames, trained, tmp_path):
    common = settings(frames, tmp_path, image_size=40, **teachers_of(trained[0], *NAMES))
    message = BUNDLE.message_of("train.json", **common)
    assert "fusion_hint" in message
    assert "('B', 16, 4, 4), got (2, 16, 5, 5)" in message


# --- the documentation ----------------------------------------------------------------------------------------------


def test_the_commands_of_the_readme_give_keys_that_exist():
    runs = BUNDLE.readme_runs()
    assert len(runs) == 27
    for configs, given in runs:
        assert all((BUNDLE.folder / config).is_file() for config in configs)
        known = set().union(*(BUNDLE.own_keys(Path(config).name) for config in configs))
        assert [key for key in given if key.split("#")[0] not in known] == []
        assert not {"false", "null"} & set(given.values())  # words to the command line, not what they say


def test_the_table_of_the_readme_has_every_key():
    text = BUNDLE.readme()
    listed = {key for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    methods = ("train", "teacher", "response", "feature", "mean_teachers")
    keys = set().union(*(BUNDLE.own_keys(f"{name}.json") for name in methods))
    assert keys - listed == {"imports", "+imports", "initialize", "run"}
    prose = set(re.findall(r"`(\w+)`", text[text.index("`inference.json` has") :]))
    parts = {"preprocessing", "dataset", "dataloader", "inferer", "postprocessing", "handlers", "evaluator", "weights"}
    assert BUNDLE.own_keys("inference.json") - prose == {"imports", "initialize", "run", *parts}
