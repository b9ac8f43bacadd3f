"""The app in label_app serves the bundles of pictures, as docs/monai_label.md says; needs ``make test-label``."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import Image
from scipy.ndimage import binary_fill_holes
from skimage.draw import polygon2mask

from monai_kd.export import export_bundle

from .label_server import environment, serve

ROOT = Path(__file__).parents[2]
POLYPS, LESIONS, FRAMES = (
    "kdas_polyp_segmentation",
    "hdkd_skin_lesion_classification",
    "mhakd_gi_endoscopy_classification",
)
CLASSIFIERS = [LESIONS, FRAMES]
EXPORTED = {POLYPS: "exported_polyp_segmentation", LESIONS: "exported_skin_lesion_classification"}
SCRIPT = "scripted_polyp_segmentation"
SIZE = (130, 96)  # width and height

# What makes the copies small; all else is the bundle as it is.
TINY = {"backbone": "b0", "embed_dims": [8, 16, 20, 32], "depths": [1] * 4, "mlp_ratios": [4] * 4}
SMALL = {
    POLYPS: {"image_size": 64, "num_workers": 0, "network_def": {"_target_": "monai_kd.networks.PolypPVT", **TINY}},
    LESIONS: {"image_size": 64, "num_workers": 0, "batch_size": 1},
    FRAMES: {"image_size": 64, "num_workers": 0, "batch_size": 1},
}

pytestmark = [
    pytest.mark.label,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(find_spec("monailabel") is None, reason="monailabel is not installed; run `make test-label`"),
]


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Pictures of smooth colours, as jpg and png; wider than high, so that mixed up axes show."""
    folder = tmp_path_factory.mktemp("studies")
    rng = np.random.default_rng(0)
    for name in ("frame_0.jpg", "frame_1.png"):
        small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        small.resize(SIZE, Image.Resampling.BICUBIC).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def bundles(tmp_path_factory, studies):
    """Small copies with weights by chance; the threshold of the segmentation is one that cuts."""
    folder = tmp_path_factory.mktemp("bundles")
    torch.manual_seed(0)
    for name, changes in SMALL.items():
        shutil.copytree(ROOT / "bundles" / name, folder / name, ignore=shutil.ignore_patterns("models", "eval"))
        (folder / name / "models").mkdir()
        path = folder / name / "configs" / "inference.json"
        parser = ConfigParser()
        parser.read_config(str(path))
        for key, value in changes.items():
            assert key in parser, f"{path} has no {key}"
            parser[key] = value
        network = parser.get_parsed_content("network_def").eval()
        torch.save(network.state_dict(), folder / name / "models" / "model.pt")
        if name == POLYPS:
            image = parser.get_parsed_content("preprocessing")({"image": str(studies / "frame_0.jpg")})["image"]
            with torch.no_grad():
                parser["threshold"] = float(network(image[None]).sigmoid().median())
        path.write_text(json.dumps(parser.config, indent=4) + "\n")
    for name, served in EXPORTED.items():
        exported = folder / served / "exported"
        export(folder / name, exported, "openvino")
        write_configs(folder / name, exported, folder / served, "inference_runtime.json")
        (folder / served / "models").mkdir()
        torch.save({}, folder / served / "models" / "model.pt")  # MONAI Label asks for one
    export(folder / POLYPS, folder / SCRIPT / "models", "torchscript")
    write_configs(folder / POLYPS, folder / SCRIPT / "models", folder / SCRIPT)
    return folder


def export(bundle, folder, form):
    """The student as its ``inference.json`` has it."""
    text = json.loads((bundle / "configs" / "inference.json").read_text(encoding="utf-8"))
    keys = ("image_size", "network_def", "threshold")
    changes = {key: text[key] for key in keys if key in text} | {"ckpt_dir": str(bundle / "models")}
    export_bundle(bundle, folder, to=form, overrides={**changes, "dataset_dir": str(bundle / "no data")})


def write_configs(bundle, exported, served, *overrides):
    """``inference.json`` of an export with files of its bundle merged into it, and its metadata."""
    (served / "configs").mkdir()
    files = [exported / "inference.json", *(bundle / "configs" / file for file in overrides)]
    merged = ConfigParser.load_config_files(files)
    ConfigParser.export_config_file(merged, served / "configs" / "inference.json", indent=4)
    shutil.copy(exported / "metadata.json", served / "configs")


@pytest.fixture(scope="module")
def server(studies, bundles, tmp_path_factory):
    app = tmp_path_factory.mktemp("app") / "label_app"
    shutil.copytree(ROOT / "label_app", app)  # MONAI Label writes into it
    names = [*SMALL, *EXPORTED.values(), SCRIPT]
    with serve(app, studies, names, tmp_path_factory.mktemp("log") / "server.log", bundles=bundles) as running:
        yield running


def ask(server, bundle, image, **params):
    query = {"image": Path(image).stem, "output": "json"}
    answer, _ = server.post(f"/infer/{bundle}", params=query, data={"params": json.dumps(params)})
    return answer.json()


def run_bundle(bundle, studies, folder):
    """What ``python -m monai.bundle run`` with inference.json writes for all pictures."""
    flow = ConfigWorkflow(
        config_file=str(bundle / "configs" / "inference.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="infer",
        bundle_root=str(bundle),
        dataset_dir=str(studies),
        output_dir=str(folder),
        device="cpu",
    )
    flow.initialize()
    flow.run()
    return folder


def drawn(result):
    """The mask that the polygons of an answer make."""
    (one,) = result["annotations"]
    assert one["annotation"]["size"] == list(SIZE)
    mask = np.zeros(SIZE[::-1], dtype=bool)
    for element in one["annotation"]["elements"]:
        assert element["label"] == "polyp"
        for points in element["contours"]:
            mask |= polygon2mask(mask.shape, np.array(points)[:, ::-1] - 0.5)
    return mask


def test_info_lists_the_bundles(server):
    info = server.request("GET", "/info/").json()
    assert set(info["models"]) == {*SMALL, *EXPORTED.values(), SCRIPT}
    assert info["trainers"] == {}
    found = {name: (model["type"], model["dimension"]) for name, model in info["models"].items()}
    assert found == {name: (name.split("_")[-1], 2) for name in found}
    assert info["models"][POLYPS]["labels"] == {"polyp": 1}
    assert info["models"][LESIONS]["labels"]["nv"] == 5
    assert info["datastore"]["total"] == 2


@pytest.mark.parametrize("image", ["frame_0.jpg", "frame_1.png"])
def test_polygons_are_the_mask_of_the_bundle(server, bundles, studies, tmp_path, image):
    own = run_bundle(bundles / POLYPS, studies, tmp_path) / Path(image).with_suffix(".png")
    mask = binary_fill_holes(np.asarray(Image.open(own)) > 0, structure=np.ones((3, 3)))
    assert 0.02 < mask.mean() < 0.98
    assert np.array_equal(drawn(ask(server, POLYPS, image, tolerance=0)), mask)
    near = drawn(ask(server, POLYPS, image))
    assert (near & mask).sum() > 0.97 * (near | mask).sum()


@pytest.mark.parametrize("bundle", CLASSIFIERS)
def test_scores_are_those_of_the_bundle(server, bundles, studies, tmp_path, bundle):
    with (run_bundle(bundles / bundle, studies, tmp_path) / "predictions.csv").open(newline="") as file:
        rows = {Path(row["image"]).name: row for row in csv.DictReader(file)}
    for image, row in rows.items():
        result = ask(server, bundle, image)
        scores = {one["label"]: one["score"] for one in result["prediction"]}
        assert scores == pytest.approx({name: float(row[name]) for name in scores}, abs=1e-5)
        assert sum(scores.values()) == pytest.approx(1, abs=1e-5)
        assert result["class"] == max(scores, key=scores.get)
    assert set(rows) == {"frame_0.jpg", "frame_1.png"}


@pytest.mark.parametrize("served", [EXPORTED[POLYPS], SCRIPT])
def test_an_exported_segmentation_answers_as_the_bundle(server, served):
    own = drawn(ask(server, POLYPS, "frame_0.jpg", tolerance=0))
    found = drawn(ask(server, served, "frame_0.jpg", tolerance=0))
    assert own.any()
    assert np.mean(own == found) >= 0.999


def test_an_exported_classification_answers_as_the_bundle(server):
    own, found = (ask(server, name, "frame_1.png")["prediction"] for name in (LESIONS, EXPORTED[LESIONS]))
    scores = [{one["label"]: one["score"] for one in result} for result in (own, found)]
    assert scores[1] == pytest.approx(scores[0], abs=1e-4)
    assert len(set(scores[0].values())) > 1


def test_a_picture_can_be_sent(server, studies):
    with (studies / "frame_0.jpg").open("rb") as file:
        answer, _ = server.post(f"/infer/{POLYPS}", params={"output": "json"}, files={"file": ("any.jpg", file)})
    assert np.array_equal(drawn(answer.json()), drawn(ask(server, POLYPS, "frame_0.jpg")))


def test_small_parts_can_be_left_out(server):
    result = ask(server, POLYPS, "frame_0.jpg", min_poly_area=SIZE[0] * SIZE[1] + 1)
    assert result["annotations"][0]["annotation"]["elements"] == []


@pytest.mark.parametrize(
    ("models", "reason"),
    [
        ("hlfd_kidney_tumor_segmentation", "is for volumes"),
        ("nothing_segmentation", "no bundle"),
        ("", "say which bundles"),
        (LESIONS, "has no models/model.pt"),
        (FRAMES, "does not fit TinyEndoNet"),
    ],
)
def test_refused_at_the_start(studies, tmp_path, models, reason):
    """Without a server, by opening the app as it does."""
    code = "import sys; from monailabel.interfaces.utils.app import app_instance; app_instance(*sys.argv[1:3], {})"
    code = code.replace("{}", repr({"models": models, "bundles": str(tmp_path)}))
    for name in ("hlfd_kidney_tumor_segmentation", LESIONS, FRAMES):
        shutil.copytree(ROOT / "bundles" / name / "configs", tmp_path / name / "configs")
    (tmp_path / FRAMES / "models").mkdir()
    torch.save({"weight": torch.zeros(1)}, tmp_path / FRAMES / "models" / "model.pt")
    done = subprocess.run(
        [Path(environment()["PATH"].split(":")[0]) / "python", "-c", code, ROOT / "label_app", studies],
        capture_output=True, encoding="utf-8", env=environment() | {"PYTHONDONTWRITEBYTECODE": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert reason in done.stderr
