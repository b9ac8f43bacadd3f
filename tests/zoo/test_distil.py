"""Bundles of six kinds, unmodified, become bundles that train, evaluate and run a student."""

import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out
from monai.networks.nets import BasicUNet

import monai_kd
from monai_kd.checkpoints import CheckpointError
from monai_kd.report import load_evaluations
from monai_kd.zoo import distil_bundle

SCHEMA = Path(__file__).parents[1] / "bundles" / "schema" / "meta_schema_20240725.json"
NAMES = [
    "spleen_ct_segmentation",
    "segresnet_ds_segmentation",
    "dynunet_segmentation",
    "swin_unetr_segmentation",
    "densenet_classification",
    "endoscopic_tool_segmentation",
]
SMALL = {"features": [4] * 6, "norm": "batch"}
SPLEEN = "spleen_ct_segmentation"


def read(root, name):
    return json.loads((root / "configs" / f"{name}.json").read_text(encoding="utf-8"))


def weights(root, name):
    return torch.load(root / "models" / f"{name}.pt", weights_only=True)


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.fixture(scope="module")
def distilled(zoo, tmp_path_factory):
    """The student's bundle of a name."""
    made = {}

    def bundle(name):
        if name not in made:
            made[name] = distil_bundle(zoo(name), tmp_path_factory.mktemp("students") / name)
        return made[name]

    return bundle


@pytest.fixture(scope="module")
def trained(zoo, distilled, run_bundle):
    """The student's bundle with the student and its baseline trained."""
    done = set()

    def bundle(name):
        root = distilled(name).root
        if name not in done:
            run_bundle(root, "train", dataset_dir=data(zoo(name)))
            run_bundle(root, "train", "baseline", dataset_dir=data(zoo(name)))
            done.add(name)
        return root

    return bundle


def data(root):
    return str(root.with_name("data"))


# What comes out works.


@pytest.mark.parametrize("name", NAMES)
def test_student_loads_into_the_plain_network(trained, name):
    root = trained(name)
    parser = ConfigParser()
    parser.read_config(str(root / "configs" / "inference.json"))
    assert "monai_kd" not in (root / "configs" / "inference.json").read_text(encoding="utf-8")
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(weights(root, "model"), strict=True)
    assert all(type(value) is torch.Tensor for value in weights(root, "model").values())


@pytest.mark.parametrize("name", NAMES)
def test_teacher_stays_and_terms_move_the_student(zoo, trained, name):
    root = trained(name)
    teacher = (zoo(name) / "models" / "model.pt").read_bytes()
    assert (root / "models" / "teacher.pt").read_bytes() == teacher
    assert not equal(weights(root, "model"), weights(root, "baseline"))


@pytest.mark.parametrize("name", NAMES)
def test_evaluates_with_scores_and_cost(zoo, distilled, trained, run_bundle, name):
    root = trained(name)
    run_bundle(root, "train", "evaluate", dataset_dir=data(zoo(name)))
    found = load_evaluations(root / "eval")["distilled"]
    assert found.cost.parameters == distilled(name).student_parameters
    assert found.cases > 0
    assert all(np.isfinite(score) for score in found.scores.values())


@pytest.mark.parametrize("name", NAMES)
def test_infers(zoo, trained, run_bundle, tmp_path, name):
    run_bundle(trained(name), "inference", kind="inference", dataset_dir=data(zoo(name)), output_dir=str(tmp_path))
    assert len(list(tmp_path.rglob("*.*"))) == (0 if name == "densenet_classification" else 3)


@pytest.mark.parametrize("name", NAMES)
def test_passes_the_checks_of_the_zoo(distilled, name, tmp_path):
    configs = distilled(name).root / "configs"
    shutil.copy(SCHEMA, tmp_path / "schema.json")
    verify_metadata(meta_file=str(configs / "metadata.json"), filepath=str(tmp_path / "schema.json"))
    files = {"meta_file": str(configs / "metadata.json"), "config_file": str(configs / "inference.json")}
    verify_net_in_out(net_id="network_def", **files, device="cpu", n=4)
    metadata = read(configs.parent, "metadata")
    assert metadata["version"] in metadata["changelog"]
    assert metadata["required_packages_version"]["monai-kd"]


@pytest.mark.parametrize("name", NAMES)
def test_exports(trained, name, tmp_path):
    configs = trained(name) / "configs"
    image = read(configs.parent, "metadata")["network_data_format"]["inputs"]["image"]
    shape = [1, image["num_channels"], *(size if isinstance(size, int) else 32 for size in image["spatial_shape"])]
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(configs.parent / "models" / "model.pt"),
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        use_trace=True,
        input_shape=shape,
        converter_kwargs={"check_trace": False},
    )
    with torch.no_grad():
        assert torch.jit.load(str(tmp_path / "model.ts"))(torch.rand(shape)).isfinite().all()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "densenet_classification"])
def test_lacks_no_property_that_its_teacher_has(zoo, distilled, name):
    missing = []
    for root in (zoo(name), distilled(name).root):
        flow = ConfigWorkflow(
            config_file=str(root / "configs" / "train.json"),
            meta_file=str(root / "configs" / "metadata.json"),
            logging_file=False,
            workflow_type="train",
            bundle_root=str(root),
            dataset_dir=data(zoo(name)),
            device="cpu",
        )
        flow.parser["initialize"] = []
        sys.path.insert(0, str(root))
        try:
            flow.initialize()
            missing.append(set(flow.check_properties() or []))
        finally:
            sys.path.remove(str(root))
            for module in [module for module in sys.modules if module.partition(".")[0] == "scripts"]:
                del sys.modules[module]
    assert missing[1] <= missing[0]


def test_runs_by_the_plain_command(zoo, distilled, tmp_path):
    root = shutil.copytree(distilled(SPLEEN).root, tmp_path / "student")
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/train.json"]
    done = subprocess.run(
        [*command, "--dataset_dir", data(zoo(SPLEEN)), "--device", "cpu"],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(Path(monai_kd.__file__).parents[1])},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (root / "models" / "model.pt").is_file()
    assert "first batch: soft_target" in done.stdout + done.stderr


# The recipe is the teacher's.


def test_without_its_terms_the_student_is_the_baseline(zoo, trained, run_bundle, tmp_path):
    root = trained(SPLEEN)
    off = {"soft_target_weight": 0.0, "teacher_dice_weight": 0.0, "hint_weight": 0.0}
    run_bundle(root, "train", dataset_dir=data(zoo(SPLEEN)), ckpt_dir=str(tmp_path), output_dir=str(tmp_path), **off,
               teacher_checkpoint=str(root / "models" / "teacher.pt"))  # fmt: skip
    assert equal(torch.load(tmp_path / "model.pt", weights_only=True), weights(root, "baseline"))


def test_teacher_is_evaluated_by_its_own_network(zoo, trained, distilled, run_bundle):
    root = trained(SPLEEN)
    run_bundle(root, "train", "teacher", "evaluate", dataset_dir=data(zoo(SPLEEN)))
    run_bundle(root, "train", "baseline", "evaluate", dataset_dir=data(zoo(SPLEEN)))
    run_bundle(zoo(SPLEEN), "train", "evaluate", dataset_dir=data(zoo(SPLEEN)))
    found = load_evaluations(root / "eval")
    assert found["teacher"].cost.parameters == distilled(SPLEEN).teacher_parameters
    assert found["baseline"].cost.parameters == distilled(SPLEEN).student_parameters


def test_another_seed_gives_another_student(zoo, trained, run_bundle, tmp_path):
    root = trained(SPLEEN)
    settings = {"dataset_dir": data(zoo(SPLEEN)), "ckpt_dir": str(tmp_path), "output_dir": str(tmp_path)}
    run_bundle(root, "train", "baseline", **settings, seed=7)
    assert not equal(torch.load(tmp_path / "baseline.pt", weights_only=True), weights(root, "baseline"))
    assert read(root, "train")["seed"] == 123


@pytest.mark.parametrize("name", NAMES)
def test_trainer_losses_transforms_and_data_are_untouched(zoo, distilled, name):
    ours, theirs = read(distilled(name).root, "train"), read(zoo(name), "train")
    changed = {key for key in theirs if ours.get(key) != theirs[key]}
    assert changed <= {"network_def", "optimizer", "train", "validate", "handlers", "val_handlers", "ckpt_path",
                       "initialize", "training", "bundle_root"}  # fmt: skip
    for room in ("train", "validate"):
        parts = {key for key in theirs.get(room, {}) if ours[room][key] != theirs[room][key]}
        assert parts <= {"handlers"}
    kept = theirs.get("train", theirs)["handlers"]
    assert [handler for handler in ours.get("train", ours)["handlers"] if handler in kept] == [
        handler for handler in kept if handler in ours.get("train", ours)["handlers"]
    ]
    groups = {key: value for key, value in theirs["optimizer"].items() if key != "params"}
    assert {key: value for key, value in ours["optimizer"].items() if key != "params"} == groups
    arguments = {key for key in theirs["network_def"] if ours["network_def"][key] != theirs["network_def"][key]}
    assert arguments <= {"channels", "filters", "init_filters", "feature_size", "init_features", "growth_rate"}
    assert ours["teacher_def"] == theirs["network_def"]


def test_nothing_of_the_teachers_bundle_is_changed_or_left(zoo, distilled):
    root = zoo(SPLEEN)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    result = distil_bundle(root, root.with_name("again"), width=0.5)
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    assert [path.name for path in (result.root / "models").iterdir()] == ["teacher.pt"]
    assert result.student["channels"] == [8, 16, 32]
    assert result.teacher_parameters > result.student_parameters > distilled(SPLEEN).student_parameters
    assert result.terms == ("soft_target", "teacher_dice", "hint")
    shutil.rmtree(result.root)


def test_a_read_only_bundle_makes_one_that_can_be_written(zoo, tmp_path):
    root = shutil.copytree(zoo("dynunet_segmentation"), tmp_path / "teacher")
    every = [root, *root.rglob("*")]
    for path in every:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        student = distil_bundle(root, tmp_path / "s").root
    finally:
        for path in every:
            path.chmod(0o755)
    assert (student / "scripts" / "losses.py").is_file()
    assert [str(path) for path in (student, *student.rglob("*")) if not path.stat().st_mode & 0o200] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "teacher"]


def test_a_student_larger_than_its_teacher_is_warned_of(zoo, tmp_path):
    large = {"_target_": "BasicUNet", "features": [16] * 6, "norm": "batch"}
    with pytest.warns(UserWarning, match="the student has .* parameters and is larger than its teacher, which has"):
        result = distil_bundle(zoo(SPLEEN), tmp_path / "large", student=large)
    assert result.student_parameters > result.teacher_parameters
    with warnings.catch_warnings(record=True) as said:
        distil_bundle(zoo(SPLEEN), tmp_path / "small")
    assert not [one for one in said if "larger than its teacher" in str(one.message)]


def test_a_bundles_scripts_are_forgotten(zoo, tmp_path):
    path = list(sys.path)
    distil_bundle(zoo("dynunet_segmentation"), tmp_path / "s")
    assert sys.path == path
    assert not any(name.partition(".")[0] == "scripts" for name in sys.modules)
    assert (tmp_path / "s" / "scripts" / "losses.py").is_file()


# Choices.


def test_default_terms_follow_the_outputs(distilled):
    assert distilled("densenet_classification").terms == ("soft_target", "hint")
    sigmoids = [
        term["loss"].get("sigmoid") for term in read(distilled("endoscopic_tool_segmentation").root, "train")["terms"]
    ]
    assert sigmoids == [True, True, None]
    assert distilled("dynunet_segmentation").taps == ("bottleneck", "bottleneck")


def test_another_network_can_be_the_student(zoo, run_bundle, tmp_path):
    result = distil_bundle(zoo(SPLEEN), tmp_path / "s", student={"_target_": "BasicUNet", **SMALL})
    channels = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
    assert result.student == {"_target_": "BasicUNet", **channels, **SMALL}
    assert result.taps is not None
    assert result.taps[1] == "model.1.submodule.1.submodule"
    run_bundle(result.root, "train", dataset_dir=data(zoo(SPLEEN)))
    BasicUNet(3, 1, 2, **SMALL).load_state_dict(weights(result.root, "model"))
    assert read(result.root, "inference")["network_def"] == result.student


def test_terms_of_ones_own(zoo, run_bundle, tmp_path):
    term = {
        "_target_": "monai_kd.distiller.DistillationTerm",
        "name": "where",
        "loss": {"_target_": "monai_kd.losses.ChannelWiseLoss", "temperature": "@heat"},
    }
    (tmp_path / "terms.json").write_text(json.dumps({"terms": [term], "heat": 3.0}))
    result = distil_bundle(zoo(SPLEEN), tmp_path / "s", terms=tmp_path / "terms.json")
    assert (result.terms, result.taps) == (("where",), None)
    assert read(result.root, "train")["heat"] == 3.0
    run_bundle(result.root, "train", dataset_dir=data(zoo(SPLEEN)))
    assert "where" in (result.root / "eval" / "distilled.history.csv").read_text(encoding="utf-8").splitlines()[0]


def test_yaml_becomes_json(zoo, tmp_path):
    yaml = pytest.importorskip("yaml")
    root = shutil.copytree(zoo(SPLEEN), tmp_path / "teacher")
    for file in (root / "configs").glob("*.json"):
        file.with_suffix(".yaml").write_text(yaml.safe_dump(json.loads(file.read_text(encoding="utf-8"))))
        file.unlink()
    result = distil_bundle(root, tmp_path / "s")
    assert read(result.root, "train")["network_def"] == result.student


# What cannot be done is refused, and nothing is written.


@pytest.fixture
def teacher(zoo, tmp_path):
    return shutil.copytree(zoo(SPLEEN), tmp_path / "teacher")


def edit(root, name, change):
    config = read(root, name)
    change(config)
    (root / "configs" / f"{name}.json").write_text(json.dumps(config))


def refused(teacher, kind, said, **choices):
    output = teacher.with_name("student")
    with pytest.raises(kind, match=said):
        distil_bundle(teacher, output, **choices)
    assert [path.name for path in teacher.parent.iterdir()] == ["teacher"]


def test_missing_files_are_named(teacher):
    with pytest.raises(FileNotFoundError, match="no bundle"):
        distil_bundle(teacher / "nowhere", teacher.with_name("student"))
    (teacher / "models" / "model.pt").unlink()
    refused(teacher, FileNotFoundError, "large_files")
    (teacher / "configs" / "train.json").unlink()
    refused(teacher, FileNotFoundError, r"train\.json")


def test_an_existing_folder_is_kept(teacher, tmp_path):
    with pytest.raises(FileExistsError, match="is there already"):
        distil_bundle(teacher, teacher)
    with pytest.raises(ValueError, match="outside"):
        distil_bundle(teacher, teacher / "student")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["train"]["trainer"].update(_target_="GanTrainer"), "no SupervisedTrainer.*GanTrainer"),
        (lambda c: c["train"]["trainer"].update(network="$@network_def.to(@device)"), "cannot find the network"),
        (lambda c: c["train"]["trainer"].update(optimizer="$None"), "cannot find the optimizer"),
        (lambda c: c.update(teacher_def={}), "distils by itself"),
        (lambda c: c.update(temperature=1.0), "keys of its own named.*temperature"),
        (lambda c: c["network_def"].update(channels=[8, 16, 32]), "does not fit UNet"),
        (lambda c: c["network_def"].update(channels="@nowhere"), "nowhere"),
    ],
)
def test_a_training_that_cannot_be_distilled(teacher, change, said):
    edit(teacher, "train", change)
    refused(teacher, ValueError, said)


def test_unclear_outputs_need_an_argument(teacher):
    def change(config):
        config["train"]["postprocessing"]["transforms"] = []
        config["loss"] = {"_target_": "DiceLoss"}

    edit(teacher, "train", change)
    refused(teacher, ValueError, "activation='softmax'")
    refused(teacher, ValueError, "'sigmoid' or 'softmax'", activation="relu")
    result = distil_bundle(teacher, teacher.with_name("student"), activation="sigmoid")
    assert read(result.root, "train")["terms"][0]["loss"]["sigmoid"] is True


def test_a_student_that_answers_otherwise(teacher):
    refused(teacher, ValueError, "the student answers", student={"_target_": "BasicUNet", **SMALL, "out_channels": 3})
    refused(teacher, ValueError, "_target_", student={"channels": [4]})
    refused(teacher, ValueError, "Nowhere cannot be made", student="Nowhere")
    refused(teacher, ValueError, "expected a torch.nn.Module", student="builtins.dict")
    refused(teacher, ValueError, "between 0 and 1", width=2)


def test_terms_that_do_not_fit(teacher):
    term = {"_target_": "monai_kd.distiller.DistillationTerm", "name": "a", "loss": {"_target_": "torch.nn.MSELoss"}}
    refused(teacher, ValueError, "no layer named 'nowhere'", terms=[{**term, "student": "nowhere"}])
    refused(teacher, ValueError, "a list of definitions", terms=[])
    assert issubclass(CheckpointError, ValueError)
