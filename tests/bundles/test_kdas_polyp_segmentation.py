"""The KDAS bundle from end to end on a handful of generated frames, with tiny networks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose
from PIL import Image

from monai_kd.data import make_polyp_frames
from monai_kd.networks import PolypPVT
from monai_kd.report import load_evaluations

from .running import PYTHON, Bundle, differing, files, table, weights

BUNDLE = Bundle("kdas_polyp_segmentation")
TINY = {"embed_dims": [8, 16, 20, 32], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}
STUDENT = {"_target_": "monai_kd.networks.PolypPVT", "backbone": "b0", **TINY}
AS_TEACHER = {"network_def": "@teacher_def"}  # what teacher.json says, and the settings below would undo
TEACHER = {**STUDENT, "embed_dims": [16, 32, 40, 64]}


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    return make_polyp_frames(tmp_path_factory.mktemp("data") / "frames", count=20, size=(64, 80))


def settings(frames, folder, **more):
    return {
        **BUNDLE.places(frames, folder),
        "image_size": 64,
        "scales": [0.5, 1.0],
        "epochs": 1,
        "epoch_length": 2,
        "batch_size": 4,
        "val_fraction": 0.2,
        "test_fraction": 0.2,
        "network_def": STUDENT,
        "teacher_def": TEACHER,
        **more,
    }


@pytest.fixture(scope="module")
def trained(frames, tmp_path_factory):
    """Teacher, baseline and distilled student, trained once."""
    folder = tmp_path_factory.mktemp("trained")
    common = settings(frames, folder)
    BUNDLE.run("train.json", "teacher.json", **{**common, **AS_TEACHER})
    BUNDLE.run("train.json", "baseline.json", **common)
    BUNDLE.run("train.json", **common, labelled_fraction=0.25)
    return folder


def test_student_checkpoint_loads_into_a_plain_network(trained):
    network = PolypPVT("b0", **TINY)
    network.load_state_dict(weights(trained / "models" / "model.pt"), strict=True)
    assert not any(module._forward_hooks for module in network.modules())
    assert all(type(value) is torch.Tensor for value in weights(trained / "models" / "model.pt").values())
    resume = ["baseline_resume.pt", "distilled_resume.pt", "teacher_resume.pt"]
    assert files(trained / "models") == sorted(["baseline.pt", "model.pt", "teacher.pt", *resume])


def test_evaluation_writes_scores_and_cost(trained, frames):
    common = settings(frames, trained)
    BUNDLE.run("train.json", "teacher.json", "evaluate.json", **{**common, **AS_TEACHER})
    BUNDLE.run("train.json", "evaluate.json", **common)
    found = load_evaluations(trained / "eval")
    assert set(found) == {"teacher", "distilled"}
    assert found["distilled"].cases == 4
    assert found["distilled"].cost.parameters == sum(p.numel() for p in PolypPVT("b0", **TINY).parameters())
    assert 0 <= found["distilled"].scores["meanDice"] <= 1
    histories = {f"{name}.history.csv" for name in ("teacher", "baseline", "distilled")}
    ends = ("evaluation.json", "cases.csv", "cases_summary.csv")
    evaluated = {f"{name}.{end}" for name in ("teacher", "distilled") for end in ends}
    assert {path.name for path in (trained / "eval").glob("*.*")} == histories | evaluated
    assert [row["epoch"] for row in table(trained / "eval" / "distilled.history.csv")] == ["1"]
    assert len(table(trained / "eval" / "distilled.cases.csv")) == 4


class DarkTopLeft(torch.nn.Module):
    """Answers with the dark pixels of the left half: right only if neither axis is swapped nor mirrored."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(40.0))

    def forward(self, x):
        left = torch.arange(x.shape[3], device=x.device) < x.shape[3] // 2
        return self.scale * (-x.mean(dim=1, keepdim=True) - 0.5) * left - 10.0 * ~left


def test_evaluation_compares_what_lies_on_the_same_pixels(tmp_path):
    """A network that finds the mask by its position scores 1 at every frame's own size, and draws it there."""
    for kind in ("images", "masks"):
        (tmp_path / "frames" / kind).mkdir(parents=True)
    for i, (height, width) in enumerate([(64, 96), (80, 64), (64, 64), (96, 72)] * 5):
        image, mask = np.full((height, width, 3), 200, np.uint8), np.zeros((height, width), np.uint8)
        mask[height // 8 : height // 4, width // 8 : width // 3] = 255
        image[mask > 0] = 10
        image[height // 8 : height // 4, 2 * width // 3 :] = 10  # the same on the right, which is no polyp
        image[0, 0] = i  # no two frames alike
        Image.fromarray(image).save(tmp_path / "frames" / "images" / f"{i}.png")
        Image.fromarray(mask).save(tmp_path / "frames" / "masks" / f"{i}.png")
    (tmp_path / "models").mkdir()
    torch.save(DarkTopLeft().state_dict(), tmp_path / "models" / "model.pt")
    common = settings(tmp_path / "frames", tmp_path, image_size=256, network_def=DarkTopLeft())
    BUNDLE.run("train.json", "evaluate.json", **common, masks_dir=str(tmp_path / "drawn"))
    assert load_evaluations(tmp_path / "eval")["distilled"].scores["meanDice"] > 0.93
    drawn = sorted((tmp_path / "drawn").rglob("*.png"))
    assert len(drawn) == len(table(tmp_path / "eval" / "distilled.cases.csv")) == 4
    for path in drawn:
        found, truth = (np.asarray(Image.open(file)) for file in (path, tmp_path / "frames" / "masks" / path.name))
        assert found.shape == truth.shape
        assert set(np.unique(found)) == {0, 255}
        assert (found == truth).mean() > 0.99


def test_inference_writes_masks_at_each_frames_own_size(trained, frames, tmp_path):
    images = Path(frames) / "images"
    BUNDLE.run(
        "inference.json",
        kind="infer",
        bundle_root=str(BUNDLE.folder),
        ckpt_dir=str(trained / "models"),
        device="cpu",
        network_def=STUDENT,
        dataset_dir=str(images),
        output_dir=str(tmp_path),
        image_size=64,
        num_workers=0,
    )
    sources = {path.stem: Image.open(path).size for path in images.iterdir()}
    masks = {path.stem: Image.open(path) for path in tmp_path.glob("*.png")}
    assert {name: mask.size for name, mask in masks.items()} == sources
    assert len(set(sources.values())) > 1
    for mask in masks.values():
        assert set(np.unique(np.asarray(mask))) <= {0, 255}


def test_masks_lie_where_the_network_sees_polyps(trained, frames, tmp_path):
    """No axis is swapped on the way through loading, inversion and saving: the mask is the network's own answer."""
    image = sorted((Path(frames) / "images").iterdir())[0]
    flow = BUNDLE.workflow(
        "inference.json",
        kind="infer",
        bundle_root=str(BUNDLE.folder),
        ckpt_dir=str(trained / "models"),
        device="cpu",
        network_def=STUDENT,
        datalist=[{"image": str(image)}],
        output_dir=str(tmp_path),
        image_size=64,
        num_workers=0,
        threshold=0.3,
    )
    flow.initialize()
    flow.run()
    frame = Image.open(image).convert("RGB")
    x = torch.from_numpy(np.asarray(frame, dtype=np.float32)).permute(2, 0, 1)[None]
    x = torch.nn.functional.interpolate(x, size=(64, 64), mode="bilinear")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]))
    network = PolypPVT("b0", **TINY).eval()
    network.load_state_dict(weights(trained / "models" / "model.pt"))
    with torch.no_grad():
        logits = torch.nn.functional.interpolate(network((x - mean) / std), size=frame.size[::-1], mode="bilinear")
    expected = (logits.sigmoid() >= 0.3)[0, 0].numpy()
    written = np.asarray(Image.open(tmp_path / f"{image.stem}.png")) > 0
    assert (written == expected).mean() > 0.99


def test_total_weight_zero_is_the_baseline_bit_for_bit(trained, frames, tmp_path):
    common = settings(frames, tmp_path, teacher_checkpoint=str(trained / "models" / "teacher.pt"))
    BUNDLE.run("train.json", "baseline.json", **common)
    BUNDLE.run("train.json", **common, distillation_weight=0.0)
    baseline, distilled = (weights(tmp_path / "models" / name) for name in ("baseline.pt", "model.pt"))
    assert differing(baseline, distilled) == []


def test_distillation_changes_the_student(trained, frames, tmp_path):
    common = settings(frames, tmp_path, teacher_checkpoint=str(trained / "models" / "teacher.pt"))
    BUNDLE.run("train.json", **common)
    baseline, distilled = weights(trained / "models" / "baseline.pt"), weights(tmp_path / "models" / "model.pt")
    assert "/out_CFM.weight" in differing(baseline, distilled)


def test_unlabelled_frames_move_the_student(trained, frames, tmp_path):
    common = settings(
        frames, tmp_path, teacher_checkpoint=str(trained / "models" / "teacher.pt"), labelled_fraction=0.25
    )
    BUNDLE.run("train.json", **common, checkpoint="with.pt")
    BUNDLE.run("train.json", **common, checkpoint="without.pt", **{"train#handlers#1#unlabelled_loader": None})
    one, other = (weights(tmp_path / "models" / name) for name in ("with.pt", "without.pt"))
    assert not torch.equal(one["out_CFM.weight"], other["out_CFM.weight"])


def test_gradients_are_clipped(trained, frames, tmp_path):
    common = settings(frames, tmp_path, **{"optimizer#_target_": "torch.optim.SGD"}, weight_decay=0.0)
    common |= {"learning_rate": 1.0, "epoch_length": 1, "gradient_clip": 1e-4}
    flow = BUNDLE.run("train.json", "baseline.json", **common)
    torch.manual_seed(0)
    network = flow.parser.get_parsed_content("network")
    assert max(p.grad.abs().max() for p in network.parameters()) <= 1e-4 + 1e-9


@pytest.mark.parametrize(("values", "mode"), [((0, 1), "L"), ((0, 100), "L"), ((0, 255), "L"), ((0, 255), "RGB")])
def test_masks_of_any_two_values_are_labels_of_0_and_1(frames, tmp_path, values, mode):
    image = sorted((Path(frames) / "images").iterdir())[0]
    truth = np.asarray(Image.open(Path(frames) / "masks" / f"{image.stem}.png")) > 127
    Image.fromarray(np.where(truth, values[1], values[0]).astype(np.uint8)).convert(mode).save(tmp_path / "mask.png")
    parser = BUNDLE.unstarted("train.json", **settings(frames, tmp_path))
    load, intensity = (parser.get_parsed_content(f"{name}_transforms") for name in ("load", "intensity"))
    item = Compose(load + intensity)({"image": str(image), "label": str(tmp_path / "mask.png")})
    assert np.array_equal(item["label"][0].numpy(), truth.astype(np.float32))


def test_a_missing_split_stops_before_training(frames, tmp_path):
    message = BUNDLE.message_of("train.json", "baseline.json", **settings(frames, tmp_path, val_fraction=0.0))
    assert "no items in validation" in message


def test_demo_settings_fit_training_and_inference(tmp_path, monkeypatch):
    """Every stage of the demo resolves, on a few frames and two steps."""
    monkeypatch.chdir(tmp_path)
    common = {"bundle_root": str(BUNDLE.folder), "device": "cpu"}
    short = {**common, "frames": 16, "epochs": 1, "epoch_length": 1, "batch_size": 2}
    BUNDLE.run("train.json", "demo.json", "teacher.json", **short, labelled_fraction=1.0)
    BUNDLE.run("train.json", "demo.json", **short)
    BUNDLE.run("train.json", "demo.json", "evaluate.json", **short)
    folder = tmp_path / "demo_output"
    new = {**common, "dataset_dir": str(folder / "frames" / "images"), "output_dir": str(folder / "masks")}
    BUNDLE.run("inference.json", "demo.json", kind="infer", **new, checkpoint="teacher.pt", network_def="@teacher_def")
    assert len(list((folder / "masks").glob("*.png"))) == 16
    assert set(load_evaluations(folder)) == {"distilled"}


def test_one_clear_line_from_the_command_line(tmp_path):
    common = settings(tmp_path / "nowhere", tmp_path)
    status, shown, errors = BUNDLE.command(PYTHON, "train.json", **common)
    assert status == 1
    assert "Traceback" not in shown
    (line,) = [line for line in errors.splitlines() if line.startswith("error:")]
    assert str(tmp_path / "nowhere") in line
    assert "images" in errors


def test_one_clear_line_for_an_error_inside_the_run(frames, tmp_path):
    common = settings(frames, tmp_path, image_size=60)
    status, shown, errors = BUNDLE.command(PYTHON, "train.json", "baseline.json", **common)
    assert status == 1
    assert "Traceback" not in shown
    (line,) = [line for line in errors.splitlines() if line.startswith("error:")]
    assert line == "error: height and width must be multiples of 32, got (60, 60); resize or pad the image to (64, 64)."


def test_a_corrupted_frame_and_a_mask_of_another_size_are_named_together(frames, tmp_path):
    copy = tmp_path / "frames"
    for kind in ("images", "masks"):
        (copy / kind).mkdir(parents=True)
        for path in (Path(frames) / kind).iterdir():
            (copy / kind / path.name).write_bytes(path.read_bytes())
    broken = copy / "images" / "frame_00003.jpg"
    broken.write_bytes(broken.read_bytes()[:600])
    Image.new("L", (10, 12), 255).save(copy / "masks" / "frame_00007.png")
    message = BUNDLE.message_of("train.json", "baseline.json", **settings(copy, tmp_path))
    assert "frame_00003.jpg" in message
    assert "frame_00007" in message
    assert not (tmp_path / "models").exists()


def test_a_teacher_of_another_architecture_is_refused_by_name(trained, frames, tmp_path):
    checkpoint = str(trained / "models" / "model.pt")
    message = BUNDLE.message_of("train.json", **settings(frames, tmp_path, teacher_checkpoint=checkpoint))
    assert "does not fit PolypPVT" in message
    assert "backbone.patch_embed1.proj.weight" in message


def test_a_missing_teacher_says_what_to_do(frames, tmp_path):
    message = BUNDLE.message_of("train.json", **settings(frames, tmp_path))
    assert "no checkpoint at" in message
    assert "Train one first" in message


def test_inference_without_frames_or_weights_says_so(frames, tmp_path):
    common = {"bundle_root": str(BUNDLE.folder), "ckpt_dir": str(tmp_path), "device": "cpu", "network_def": STUDENT}
    message = BUNDLE.message_of("inference.json", kind="infer", **common, dataset_dir=str(tmp_path / "nowhere"))
    assert message == f"no folder '{tmp_path / 'nowhere'}'; give the folder that holds the images."
    message = BUNDLE.message_of("inference.json", kind="infer", **common, dataset_dir=str(Path(frames) / "images"))
    assert f"no checkpoint at '{tmp_path}/model.pt'" in message


def test_a_misspelt_tap_lists_the_closest(trained, frames, tmp_path):
    common = settings(frames, tmp_path, teacher_checkpoint=str(trained / "models" / "teacher.pt"))
    message = BUNDLE.message_of("train.json", **common, **{"terms#0#student": "logits_cmf"})
    assert "logits_cmf" in message
    assert "logits_cfm" in message


def test_inference_names_monai_the_network_and_where_masks_go():
    """A stock MONAI with this package for these can run the student."""
    parser = ConfigParser()
    parser.read_config(str(BUNDLE.configs / "inference.json"))
    targets = [line for line in json.dumps(parser.config).split('"') if line.startswith("monai_kd.")]
    assert set(targets) == {"monai_kd.networks.PolypPVT", "monai_kd.data.InsideLayout"}
