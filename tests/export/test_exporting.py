"""All bundles in all formats; what an export holds, when it is refused, and that a refused one leaves nothing."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data.torchscript_utils import load_net_with_metadata
from PIL import Image

import monai_kd
from monai_kd.checkpoints import CheckpointError
from monai_kd.data import make_polyp_frames
from monai_kd.export import AccuracyError, NoCases, VerificationError, export_bundle, exporting
from monai_kd.export.openvino_ir import computes_bf16, openvino_module
from monai_kd.export.student_bundle import read_student

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
pytest.importorskip("nncf")

BUNDLES = Path(monai_kd.__file__).parents[1] / "bundles"
FORMATS = ("torchscript", "onnx", "openvino")
POLYP, ENDOSCOPY, KIDNEY = (
    "kdas_polyp_segmentation",
    "mhakd_gi_endoscopy_classification",
    "hlfd_kidney_tumor_segmentation",
)


def answer_of(folder, to, images):
    """The exported file read by its own runtime, without this package."""
    if to == "torchscript":
        with torch.inference_mode():
            return torch.jit.load(str(folder / "model.ts"))(torch.from_numpy(images)).numpy()
    if to == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        return session.run(["pred"], {"image": images})[0]
    compiled = (
        openvino_module()
        .Core()
        .compile_model(str(folder / "model.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1})
    )
    return np.array(compiled({"image": images})["pred"])


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def ends(network, images):
    with torch.inference_mode():
        return network(torch.from_numpy(images)).numpy()


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("name", sorted(path.name for path in BUNDLES.iterdir() if path.is_dir()))
def test_every_bundle_in_every_format(name, to, bundle_of):
    arguments, network = bundle_of(name)
    done = export_bundle(**arguments, to=to)
    folder, said = done.folder, done.description

    assert said == json.loads((folder / "export.json").read_text(encoding="utf-8"))
    assert files(folder) == sorted([*said["checksums"], "export.json"])
    for file, checksum in said["checksums"].items():
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == checksum
    assert (said["format"], said["precision"], said["input"]["batch"]) == (to, "f32", None)
    assert said["pipeline"] is not None
    assert said["pipeline_refused"] is None
    bf16 = ["bf16"] if computes_bf16() else []
    both = {"onnxruntime": ["f32"], "openvino": ["f32"]}
    assert (
        said["verified"]
        == {"torchscript": {"torch": ["f32"]}, "onnx": both, "openvino": {"openvino": ["f32", *bf16]}}[to]
    )
    assert said["not_verified"] == {}
    assert said["verification"]["kind"] == "noise"
    assert "no_data" in said["verification"]["reason"]

    channels, shape = said["input"]["channels"], said["input"]["spatial_shape"]
    images = np.random.default_rng(1).normal(size=(3, channels, *shape)).astype(np.float32)
    expected = ends(network, images)
    assert expected.shape[1] == said["output"]["channels"] == len(said["output"]["labels"])
    assert said["task"] == ("segmentation" if expected.ndim > 2 else "classification")
    tolerance = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(answer_of(folder, to, images), expected, atol=tolerance)
    if to != "torchscript":
        runtime = pytest.importorskip("monai_kd.runtime")
        model = runtime.load_exported(folder, "openvino" if to == "openvino" else "onnxruntime", num_threads=1)
        np.testing.assert_allclose(model(images), expected, atol=tolerance)
        runtime.open_student(model)


def test_the_default_network_of_a_small_bundle(bundle_of):
    arguments, network = bundle_of(ENDOSCOPY, configs=())
    done = export_bundle(**arguments)
    assert done.description["input"]["spatial_shape"] == [224, 224]
    images = np.random.default_rng(1).normal(size=(2, 3, 224, 224)).astype(np.float32)
    np.testing.assert_allclose(answer_of(done.folder, "openvino", images), ends(network, images), atol=1e-4)


# --- what is inside -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", FORMATS)
def test_the_documents_are_inside(to, bundle_of):
    arguments, _ = bundle_of(ENDOSCOPY, configs=())
    folder = export_bundle(**arguments, to=to).folder
    metadata, inference = (
        json.loads((folder / name).read_text(encoding="utf-8")) for name in ("metadata.json", "inference.json")
    )
    assert metadata == json.loads((arguments["bundle"] / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert inference == json.loads((arguments["bundle"] / "configs" / "inference.json").read_text(encoding="utf-8"))
    if to == "torchscript":
        _, found, others = load_net_with_metadata(str(folder / "model.ts"), more_extra_files=["inference.json"])
        assert {key: found[key] for key in metadata} == metadata
        found = others["inference.json"]
    elif to == "onnx":
        import onnx

        properties = {one.key: one.value for one in onnx.load(str(folder / "model.onnx")).metadata_props}
        assert json.loads(properties["metadata.json"]) == metadata
        found = properties["inference.json"]
    else:
        model = openvino_module().Core().read_model(str(folder / "model.xml"))
        assert json.loads(model.get_rt_info(["monai_kd", "metadata.json"]).astype(str)) == metadata
        found = model.get_rt_info(["monai_kd", "inference.json"]).astype(str)
    assert json.loads(found) == inference


def test_changes_are_embedded_and_folders_of_this_machine_are_not(bundle_of):
    arguments, _ = bundle_of(KIDNEY, spacing=[3.0, 3.0, 4.0])
    done = export_bundle(**arguments, to="torchscript")
    embedded = json.loads((done.folder / "inference.json").read_text(encoding="utf-8"))
    assert embedded["spacing"] == done.description["pipeline"]["spacing"] == [3.0, 3.0, 4.0]
    assert embedded["patch_size"] == done.description["input"]["spatial_shape"] == [32, 32, 32]
    for path in done.folder.glob("*.json"):
        if path.name != "export.json":  # which says what was looked for, in vain
            assert str(arguments["bundle"].parent) not in path.read_text(encoding="utf-8")
    assert embedded["dataset_dir"] == "/workspace/data/ct"


def test_openvino_keeps_float32_weights(bundle_of):
    arguments, network = bundle_of(ENDOSCOPY)
    folder = export_bundle(**arguments).folder
    model = openvino_module().Core().read_model(str(folder / "model.xml"))
    kinds = {op.get_element_type().get_type_name() for op in model.get_ops() if op.get_type_name() == "Constant"}
    assert "f16" not in kinds
    assert (folder / "model.bin").stat().st_size > 4 * 0.9 * sum(p.numel() for p in network.parameters())


# --- precisions -----------------------------------------------------------------------------------------------------


def test_bf16_is_a_precision_of_the_runtime(bundle_of):
    if not computes_bf16():
        pytest.skip("this CPU does not compute in bf16")
    arguments, _ = bundle_of(ENDOSCOPY)
    exact = export_bundle(**arguments).description
    done = export_bundle(**arguments, precision="bf16")  # replaces the one before
    assert done.description["precision"] == "bf16"
    assert done.description["verified"] == {"openvino": ["bf16", "f32"]}
    assert done.description["checksums"]["model.bin"] == exact["checksums"]["model.bin"]
    assert exact["verification"]["max_abs_difference"] < done.description["verification"]["max_abs_difference"]


def changed(change, *precisions):
    """OpenVINO in these precisions with other answers."""
    load = exporting._LOADERS["openvino"]

    def loader(file, precision):
        answer = load(file, precision)
        return (lambda images: change(answer(images))) if precision in precisions else answer

    return loader


@pytest.mark.parametrize(
    ("to", "precision", "wrong", "verified"),
    [
        ("openvino", "f32", "bf16", {"openvino": ["f32"]}),
        ("openvino", "bf16", "f32", {"openvino": ["bf16"]}),
        ("onnx", "f32", "f32", {"onnxruntime": ["f32"]}),
    ],
)
@pytest.mark.parametrize("how", ["other answers", "cannot be read"])
def test_what_answers_otherwise_is_not_served(bundle_of, monkeypatch, to, precision, wrong, verified, how):
    """The export's own form is right, another runtime or precision that could take the file is not."""
    if "bf16" in (precision, wrong) and not computes_bf16():
        pytest.skip("this CPU does not compute in bf16")

    def change(answer):
        if how == "cannot be read":
            raise RuntimeError("not supported")
        return answer * 1.5

    monkeypatch.setattr(exporting, "same_for_batches", lambda *_: None)
    monkeypatch.setitem(exporting._LOADERS, "openvino", changed(change, wrong))
    arguments, _ = bundle_of(ENDOSCOPY)
    done = export_bundle(**arguments, to=to, precision=precision)
    assert done.description["verified"] == verified
    reason = {"other answers": "relative_.* must be at most .*, it is 0.5", "cannot be read": "not supported"}[how]
    assert list(done.description["not_verified"]) == [f"openvino {wrong}"]
    assert re.search(reason, done.description["not_verified"][f"openvino {wrong}"])
    runtime = pytest.importorskip("monai_kd.runtime")
    with pytest.raises(runtime.ExportError, match=f"was verified with .*, not with openvino in {wrong} .*{reason}"):
        runtime.load_exported(done.folder, "openvino", wrong)
    own = "onnxruntime" if to == "onnx" else "openvino"
    assert runtime.load_exported(done.folder, own, num_threads=1).precision == precision


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, AssertionError])
def test_what_is_not_the_runtimes_refusal_ends_the_export(bundle_of, monkeypatch, error):
    def fail(answer):
        raise error

    monkeypatch.setattr(exporting, "computes_bf16", lambda: True)
    monkeypatch.setattr(exporting, "same_for_batches", lambda *_: None)
    monkeypatch.setitem(exporting._LOADERS, "openvino", changed(fail, "bf16"))
    arguments, _ = bundle_of(ENDOSCOPY)
    with pytest.raises(error):
        export_bundle(**arguments)
    assert not arguments["output"].exists()


def test_a_picture_that_is_not_brought_back_is_not_predicted(bundle_of):
    """The mask that MONAI writes then has the network's size."""
    arguments, _ = bundle_of(POLYP)
    path = arguments["bundle"] / "configs" / "inference.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    chain = content["postprocessing"]["transforms"]
    chain[:] = [one for one in chain if one["_target_"] != "Invertd"]
    path.write_text(json.dumps(content))
    said = export_bundle(**arguments, to="torchscript").description
    assert said["pipeline"] is None
    assert "Resized without Invertd" in said["pipeline_refused"]


@pytest.fixture
def polyp_bundle(bundle_of, tmp_path):
    """With data: verification sees it, int8 is calibrated and scored on it. Its network calls part of it a polyp."""
    frames = make_polyp_frames(tmp_path / "frames", count=16)
    arguments, network = bundle_of(POLYP, dataset_dir=str(frames), val_fraction=0.25, labelled_fraction=1.0)
    noise = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    network.out_CFM.bias -= network(noise).median()
    torch.save(network.state_dict(), arguments["bundle"] / "models" / "model.pt")
    return arguments, network


def test_int8_is_calibrated_scored_and_kept(polyp_bundle):
    arguments, _ = polyp_bundle
    done = export_bundle(**arguments, precision="int8", calibration_inputs=4, validation_cases=2, max_drop=1.0)
    said = done.description
    assert said["verification"]["kind"] == "validation cases"
    assert said["verification"]["limit"] is None
    assert said["calibration"]["inputs"] == 4
    assert said["calibration"]["first"].startswith("training case")
    assert said["accuracy"]["score"] == "val_mean_dice"
    assert said["accuracy"]["cases"] == 2
    assert said["accuracy"]["drop"] == pytest.approx(said["accuracy"]["before"] - said["accuracy"]["after"])
    model = openvino_module().Core().read_model(str(done.folder / "model.xml"))
    assert any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())
    constants = [op for op in model.get_ops() if op.get_type_name() == "Constant"]
    assert "i8" in {op.get_element_type().get_type_name() for op in constants}
    assert json.loads(model.get_rt_info(["monai_kd", "metadata.json"]).astype(str))["name"] == "KDAS polyp segmentation"


def raising(answer):
    raise RuntimeError("out of memory")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda answer: answer - 1e3,
            r"int8 loses too much: val_mean_dice on 2 validation cases: f32 0\.[1-9].*max_drop",
        ),
        (lambda answer: answer * np.nan, "int8 loses too much: val_mean_dice on 2 validation cases"),
        (raising, r"int8 has no score beside val_mean_dice 0\.[1-9].*out of memory"),
    ],
    ids=["nothing found", "no numbers", "fails"],
)
def test_int8_that_loses_too_much_is_refused(polyp_bundle, tmp_path, monkeypatch, change, reason):
    """By default; and an earlier export stays."""
    arguments, _ = polyp_bundle
    earlier = export_bundle(**arguments).description
    before = files(tmp_path)
    monkeypatch.setattr(exporting, "quantize_ir", lambda *_: None)
    monkeypatch.setitem(exporting._LOADERS, "openvino", changed(change, "int8"))
    with pytest.raises(AccuracyError, match=reason):
        export_bundle(**arguments, precision="int8", calibration_inputs=2, validation_cases=2)
    assert files(tmp_path) == before
    assert json.loads((tmp_path / "exported" / "export.json").read_text(encoding="utf-8")) == earlier


def test_int8_that_loses_nothing_is_kept(polyp_bundle, monkeypatch):
    """With the same doors as those that are refused."""
    arguments, _ = polyp_bundle
    monkeypatch.setattr(exporting, "quantize_ir", lambda *_: None)
    monkeypatch.setitem(exporting._LOADERS, "openvino", changed(lambda answer: answer, "int8"))
    done = export_bundle(**arguments, precision="int8", calibration_inputs=2, validation_cases=2)
    assert done.accuracy.drop == pytest.approx(0, abs=1e-3)
    assert done.description["verified"] == {"openvino": ["int8"]}


def test_int8_without_training_cases_is_refused(bundle_of, tmp_path):
    arguments, _ = bundle_of(ENDOSCOPY)
    before = files(tmp_path)
    with pytest.raises(NoCases, match=r"calibrated on the bundle's own training cases.*dataset_dir"):
        export_bundle(**arguments, precision="int8")
    assert files(tmp_path) == before


def test_without_a_score_of_the_bundle_labels_are_compared(polyp_bundle, monkeypatch):
    arguments, _ = polyp_bundle
    configuration = arguments["bundle"] / "configs" / "train.json"
    content = json.loads(configuration.read_text(encoding="utf-8"))
    del content["validate"]["key_metric"]
    configuration.write_text(json.dumps(content))
    monkeypatch.setattr(exporting, "quantize_ir", lambda *_: None)
    found = export_bundle(**arguments, precision="int8", calibration_inputs=2, validation_cases=2).accuracy
    assert (found.score, found.before, found.after) == ("agreement", 1.0, 1.0)
    assert "no validate#key_metric" in found.reason
    monkeypatch.setitem(exporting._LOADERS, "openvino", changed(lambda answer: answer - 1e3, "int8"))
    with pytest.raises(AccuracyError, match="int8 loses too much: agreement on 4 validation cases: f32 1"):
        export_bundle(**arguments, precision="int8", calibration_inputs=2, validation_cases=2)


# --- refusals -------------------------------------------------------------------------------------------------------


def test_other_outputs_refuse_the_export_and_keep_the_earlier_one(bundle_of, tmp_path, monkeypatch):
    arguments, _ = bundle_of(ENDOSCOPY)
    earlier = export_bundle(**arguments, to="torchscript").description
    before = files(tmp_path)
    load = exporting._LOADERS["torchscript"]

    def wrong(file, precision):
        answer = load(file, precision)
        return lambda images: answer(images) * (1.0 if len(images) != 1 else 1.01)

    monkeypatch.setattr(exporting, "same_for_batches", lambda *_: None)
    monkeypatch.setitem(exporting._LOADERS, "torchscript", wrong)
    with pytest.raises(VerificationError, match=r"relative_max must be at most 0.001 in f32(.|\n)*noise 1 +[\d.]+"):
        export_bundle(**arguments, to="torchscript")
    assert files(tmp_path) == before
    assert json.loads((tmp_path / "exported" / "export.json").read_text(encoding="utf-8")) == earlier


def test_an_interrupted_export_leaves_nothing(bundle_of, tmp_path, monkeypatch):
    arguments, _ = bundle_of(ENDOSCOPY)
    before = files(tmp_path)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "verify", stop)
    with pytest.raises(KeyboardInterrupt):
        export_bundle(**arguments, to="torchscript")
    assert files(tmp_path) == before


def test_a_folder_of_something_else_is_left_alone(bundle_of):
    arguments, _ = bundle_of(ENDOSCOPY)
    with pytest.raises(FileExistsError, match="something other than an export"):
        export_bundle(**{**arguments, "output": arguments["bundle"]}, to="torchscript")
    arguments["output"].mkdir()
    export_bundle(**arguments, to="torchscript")  # an empty folder is nothing


def test_weights_of_another_network_are_refused(bundle_of, tmp_path):
    arguments, network = bundle_of(ENDOSCOPY)
    state = network.state_dict()
    state.pop(next(iter(state)))
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="missing in the file"):
        export_bundle(**arguments, to="torchscript", checkpoint=tmp_path / "other.pt")


@pytest.mark.parametrize(("to", "precision"), [("onnx", "int8"), ("torchscript", "bf16"), ("openvino", "f16")])
def test_impossible_precisions_are_refused(to, precision):
    with pytest.raises(ValueError, match=precision):
        export_bundle("nowhere", "exported", to, precision)


@pytest.fixture
def own_bundle(tmp_path):
    """A bundle with a network of its own scripts and a transform that no runtime knows."""

    def make(forward):
        root = tmp_path / "own_bundle"
        (root / "configs").mkdir(parents=True)
        (root / "models").mkdir()
        (root / "scripts").mkdir()
        (root / "scripts" / "__init__.py").touch()
        (root / "scripts" / "net.py").write_text(
            "import torch\n\n\nclass Net(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            "        self.conv = torch.nn.Conv2d(1, 2, 3, padding=1)\n\n    def forward(self, x):\n"
            f"        y = self.conv(x)\n        return {forward}\n"
        )
        image = {"num_channels": 1, "spatial_shape": [16, 16]}
        metadata = {"version": "1", "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": image}}}
        inference = {
            "network_def": {"_target_": "scripts.net.Net"},
            "preprocessing": {"_target_": "ScaleIntensityd", "keys": "image"},
            "inferer": {"_target_": "SimpleInferer"},
        }
        (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
        (root / "configs" / "inference.json").write_text(json.dumps(inference))
        state = {"conv.weight": torch.randn(2, 1, 3, 3), "conv.bias": torch.randn(2)}
        torch.save(state, root / "models" / "model.pt")
        return {"bundle": root, "output": tmp_path / "exported"}

    return make


@pytest.mark.parametrize(
    ("forward", "share", "listed"),
    [("y", 0.02, False), ("y", 0.005, True), ("1 + 0.01 * y.mean((2, 3))", 1, True)],
    ids=["other labels", "few other labels", "classification"],
)
def test_of_a_segmentation_labels_decide_too_where_nobody_asked(own_bundle, monkeypatch, forward, share, listed):
    """bf16 with outputs within its limit, and with other labels at that share of the positions."""

    def changed_labels(answer):
        difference = np.diff(answer, axis=1)
        change = np.abs(difference) <= np.quantile(np.abs(difference), share)
        return np.where(change, answer[:, ::-1], answer)

    load = exporting._LOADERS["openvino"]

    def loader(file, precision):
        answer = load(file, "f32")
        return answer if precision == "f32" else lambda images: changed_labels(answer(images))

    monkeypatch.setattr(exporting, "computes_bf16", lambda: True)
    monkeypatch.setitem(exporting._LOADERS, "openvino", loader)
    arguments = own_bundle(forward)
    said = export_bundle(**arguments).description
    assert said["verified"] == {"openvino": ["f32", "bf16"] if listed else ["f32"]}
    if not listed:
        assert re.search(r"99 % must be the same in bf16, 9[78]\.\d+ % are", said["not_verified"]["openvino bf16"])
    asked = export_bundle(**arguments, precision="bf16")
    assert asked.description["verified"]["openvino"][0] == "bf16"
    assert asked.verification.agreement == pytest.approx(1 - share, abs=0.005)


def test_a_transform_that_is_not_known_is_named_and_the_network_exported(own_bundle):
    done = export_bundle(**own_bundle("y"))
    assert done.description["pipeline"] is None
    assert "ScaleIntensityd is not known" in done.description["pipeline_refused"]
    assert "no configs/train.json" in done.verification.reason


@pytest.mark.parametrize("to", ["torchscript", "openvino"])
def test_a_batch_that_cannot_be_free_is_fixed_and_said(own_bundle, to):
    done = export_bundle(**own_bundle("y.reshape(int(x.shape[0]), 2, 16, 16)"), to=to)
    assert done.description["input"]["batch"] == 1
    assert done.description["input"]["batch_reason"]
    assert done.verification.as_json()["max_abs_difference"] < 1e-5


@pytest.mark.parametrize(("forward", "reason"), [("[y, y]", "gives a list"), ("y[:, :, ::2]", "gives \\(1, 2, 8, 16")])
def test_outputs_that_no_runtime_reads_are_refused(own_bundle, forward, reason):
    with pytest.raises(ValueError, match=reason):
        export_bundle(**own_bundle(forward))


def test_an_open_input_size_must_be_said(own_bundle):
    arguments = own_bundle("y")
    path = arguments["bundle"] / "configs" / "metadata.json"
    path.write_text(path.read_text(encoding="utf-8").replace("[16, 16]", '["16*n", "16*n"]'))
    with pytest.raises(ValueError, match=r"leaves the size of its network's input open.*spatial_shape"):
        export_bundle(**arguments, to="torchscript")
    done = export_bundle(**arguments, to="torchscript", spatial_shape=(32, 32))
    assert done.description["input"]["spatial_shape"] == [32, 32]


def test_a_size_other_than_the_bundles_is_refused(bundle_of):
    arguments, _ = bundle_of(ENDOSCOPY)
    with pytest.raises(ValueError, match=r"\(32, 32\), the bundle calls its network with \(64, 64\)"):
        export_bundle(**arguments, to="torchscript", spatial_shape=(32, 32))


def test_pictures_give_the_bundles_answer_without_torch(polyp_bundle, tmp_path):
    """Decoded, prepared, run and cut by the runtime: the mask of the bundle's own inference."""
    runtime = pytest.importorskip("monai_kd.runtime")
    arguments, network = polyp_bundle
    folder = export_bundle(**arguments).folder
    picture = next((tmp_path / "frames" / "images").iterdir())
    student = runtime.open_student(runtime.load_exported(folder, num_threads=1))
    mask = student.infer(student.load(picture))
    from monai.bundle.config_parser import ConfigParser

    parser = ConfigParser()
    parser.read_config([str(arguments["bundle"] / "configs" / name) for name in ("inference.json", "demo.json")])
    image = parser.get_parsed_content("preprocessing")({"image": str(picture)})["image"]
    with torch.inference_mode():
        logits = network(torch.as_tensor(image)[None])
    with Image.open(picture) as file:
        size = (file.height, file.width)
    expected = torch.nn.functional.interpolate(logits, size, mode="bilinear")[0, 0].numpy() >= 0
    assert 0 < expected.mean() < 1
    assert ((mask > 0) == expected).mean() > 0.999


def test_a_training_recipe_changes_what_inference_has(bundle_of, tmp_path):
    """Changes within parts that training alone has are left out; the list of files stays the bundle's own."""
    arguments, _ = bundle_of(KIDNEY)
    recipe = {"spacing": [2.0] * 3, "teacher_def#filters": [8], "train#crop_transforms": [], "datalist": "$no_list()"}
    recipe |= {"+imports": ["$import math"], "intensity_transforms": []}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    arguments["configs"].append(tmp_path / "recipe.json")
    student = read_student(arguments["bundle"], configs=arguments["configs"], overrides=arguments["overrides"])
    assert student.pipeline["spacing"] == [2.0] * 3
    assert student.pipeline["intensity"] == []
    assert "train" not in student.inference
    own = json.loads((arguments["bundle"] / "configs" / "inference.json").read_text(encoding="utf-8"))
    assert student.inference["datalist"] == own["datalist"]
    training = student.training()
    assert training["teacher_def"]["filters"] == [8]


def test_a_change_within_a_part_that_nobody_has_is_refused(bundle_of, tmp_path):
    arguments, _ = bundle_of(KIDNEY)
    (tmp_path / "recipe.json").write_text('{"taecher_def#filters": [8]}', encoding="utf-8")
    with pytest.raises(ValueError, match="taecher_def"):
        read_student(arguments["bundle"], configs=[tmp_path / "recipe.json"], overrides=arguments["overrides"])
