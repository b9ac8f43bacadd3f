"""What MONAI's model zoo and its tools ask of a bundle, asked of every folder in bundles/, without network and data."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_metadata, verify_net_in_out
from PIL import Image

import monai_kd
from monai_kd.overrides import override_problems

from .running import Bundle

ROOT = Path(__file__).parents[2]
SCHEMA = Path(__file__).parent / "schema" / "meta_schema_20240725.json"
FILES = [
    "LICENSE",
    "configs/metadata.json",
    "configs/train.json",
    "configs/teacher.json",
    "configs/baseline.json",
    "configs/multi_gpu_train.json",
    "configs/evaluate.json",
    "configs/inference.json",
    "configs/logging.conf",
    "docs/README.md",
    "docs/data_license.txt",
]


@pytest.fixture(
    params=sorted(path for path in (ROOT / "bundles").iterdir() if path.is_dir()), ids=lambda path: path.name
)
def bundle(request):
    return request.param


def read(bundle, name):
    return json.loads((bundle / "configs" / f"{name}.json").read_text(encoding="utf-8"))


def files(bundle, *suffixes):
    """The files of a bundle; not the weights and results of somebody's run."""
    made = ("models", "eval")
    found = (path for path in bundle.rglob("*") if path.suffix in suffixes and path.is_file())
    return [path for path in found if path.relative_to(bundle).parts[0] not in made]


def test_files(bundle):
    assert [name for name in FILES if not (bundle / name).is_file() or not (bundle / name).read_bytes().strip()] == []
    assert re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*_(segmentation|classification|detection)", bundle.name)
    assert (bundle / "LICENSE").read_text(encoding="utf-8") == (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_json_has_the_zoos_format(bundle):
    for path in files(bundle, ".json"):
        text = path.read_text(encoding="utf-8")
        assert text == json.dumps(json.loads(text), indent=4) + "\n", path.name


def test_metadata_fits_the_schema(bundle, tmp_path):
    """MONAI downloads the schema only if the file is not there."""
    shutil.copy(SCHEMA, tmp_path / "schema.json")
    verify_metadata(meta_file=str(bundle / "configs" / "metadata.json"), filepath=str(tmp_path / "schema.json"))
    metadata = read(bundle, "metadata")
    assert metadata["schema"].endswith(SCHEMA.name)
    assert {"name", "changelog"} <= metadata.keys()


def test_schema_is_asked(bundle, tmp_path):
    shutil.copy(SCHEMA, tmp_path / "schema.json")
    metadata = read(bundle, "metadata")
    del metadata["network_data_format"]
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match="network_data_format"):
        verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=str(tmp_path / "schema.json"))


def test_versions_are_the_tested_ones(bundle):
    metadata = read(bundle, "metadata")
    assert metadata["version"] in metadata["changelog"]
    named = metadata["required_packages_version"] | {
        name: metadata[f"{key}_version"] for name, key in (("monai", "monai"), ("torch", "pytorch"), ("numpy", "numpy"))
    }
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if "==" in line) | {"monai-kd": monai_kd.__version__}
    assert named == {name: tested.get(name) for name in named}


# Network: the zoo's continuous integration calls both tools as here, with their own sizes.


def test_network_maps_what_the_metadata_says(bundle):
    """MONAI's tool has nothing to say, and names the channels once the metadata say others."""

    def verify(**overrides):
        return verify_net_in_out(
            net_id="network_def",
            meta_file=str(bundle / "configs" / "metadata.json"),
            config_file=str(bundle / "configs" / "inference.json"),
            bundle_root=str(bundle),
            device="cpu",
            **overrides,
        )

    assert verify() is None
    channels = read(bundle, "metadata")["network_data_format"]["outputs"]["pred"]["num_channels"]
    with pytest.raises(ValueError, match=f"output channel number `{channels}` doesn't match: `{channels + 1}`"):
        verify(**{"_meta_#network_data_format#outputs#pred#num_channels": channels + 1})


def test_exported_network_answers_as_the_network(bundle, tmp_path):
    torch.manual_seed(0)
    configs = bundle / "configs"
    expected = read(bundle, "metadata")["network_data_format"]
    sizes = [size if isinstance(size, int) else 32 for size in spatial_shape(bundle)]
    shape = [1, expected["inputs"]["image"]["num_channels"], *sizes]
    parser = ConfigParser()
    parser.read_config(str(configs / "inference.json"))
    network = parser.get_parsed_content("network_def").eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tmp_path / "model.pt"),
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        bundle_root=str(bundle),
        use_trace=True,
        input_shape=shape,
        converter_kwargs={"check_trace": False},  # the comparison below is the check
    )
    embedded = {"metadata.json": "", "inference.json": ""}
    exported = torch.jit.load(str(tmp_path / "model.ts"), _extra_files=embedded)
    image = torch.rand(shape)
    with torch.no_grad():
        answer = network(image)
        torch.testing.assert_close(exported(image), answer)
    positions = [] if classifies(bundle) else shape[2:]
    assert answer.shape == (1, expected["outputs"]["pred"]["num_channels"], *positions)
    assert json.loads(embedded["inference.json"]) == read(bundle, "inference")
    assert json.loads(embedded["metadata.json"])["version"] == read(bundle, "metadata")["version"]


# Configurations.


def spatial_shape(bundle):
    return read(bundle, "metadata")["network_data_format"]["inputs"]["image"]["spatial_shape"]


def classifies(bundle):
    return read(bundle, "metadata")["network_data_format"]["outputs"]["pred"]["format"] == "classes"


def items(bundle, folder):
    """Images with labels of the bundle's kind: two frames or volumes, or one image of each class."""
    if classifies(bundle):
        classes = range(read(bundle, "metadata")["network_data_format"]["outputs"]["pred"]["num_channels"])
        for i in classes:
            Image.fromarray(np.full((32, 32), i, dtype=np.uint8)).save(folder / f"{i}.png")
        yield "image", [str(folder / f"{i}.png") for i in classes]
        yield "label", list(classes)
        yield "index", list(classes)
        return
    for name in ("image", "label"):
        if len(spatial_shape(bundle)) == 2:
            paths = [folder / f"{name}_{i}.png" for i in range(2)]
            for path in paths:
                Image.fromarray(np.eye(32, dtype=np.uint8) * 255).save(path)
        else:
            paths = [folder / f"{name}_{i}.nii.gz" for i in range(2)]
            for path in paths:
                nibabel.save(nibabel.Nifti1Image(np.eye(32, dtype=np.int16)[None].repeat(32, 0), np.eye(4)), path)
        yield name, [str(path) for path in paths]


@pytest.mark.parametrize("name", ["train", "inference"])
def test_properties_are_complete(bundle, name, tmp_path):
    """Every id that MONAI's tools look for is there and can be made."""
    paths = dict(items(bundle, tmp_path))
    listed = [dict(zip(paths, pair)) for pair in zip(*paths.values())]
    overrides = {"datalist": [{"image": item["image"]} for item in listed]}
    if name == "train":
        overrides = {"datalist": dict.fromkeys(("training", "validation", "test"), listed)}
        train = read(bundle, "train")
        if "checkpoint" in train.get("teacher", {}):
            overrides["teacher#checkpoint"] = None
        if "teacher_checkpoints" in train:
            overrides["teacher_checkpoints"] = dict.fromkeys(train["teacher_checkpoints"])
    flow = ConfigWorkflow(
        config_file=str(bundle / "configs" / f"{name}.json"),
        meta_file=str(bundle / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type=name,
        bundle_root=str(bundle),
        ckpt_dir=str(tmp_path / "models"),
        output_dir=str(tmp_path),
        device="cpu",
        num_workers=0,
        **overrides,
    )
    flow.parser["initialize"] = []
    flow.initialize()
    assert flow.check_properties() == []


def test_no_personal_paths(bundle):
    personal = re.compile(r"(?<![\w.])/(home|Users|root|tmp|mnt|media|opt|scratch)/|\b[A-Z]:\\\\?\w|~/")
    for path in files(bundle, ".json", ".md", ".txt", ".conf", ".yml", ".yaml"):
        assert not (found := personal.search(path.read_text(encoding="utf-8"))), f"{path.name}: {found}"
    for path in files(bundle, ".json"):
        for value in strings(json.loads(path.read_text(encoding="utf-8"))):
            assert not value.startswith("/") or value.startswith("/workspace/data/"), f"{path.name}: {value}"


def strings(config):
    if isinstance(config, str):
        yield config
    elif isinstance(config, (dict, list)):
        for value in config.values() if isinstance(config, dict) else config:
            yield from strings(value)


def entries(config):
    """Every mapping of a configuration, at any depth."""
    if isinstance(config, dict):
        yield config
    for value in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        yield from entries(value)


@pytest.mark.parametrize("name", ["train", "multi_gpu_train", "evaluate", "inference", "ensemble"])
def test_misspelt_keys_are_said_first(bundle, name):
    """Before anything is read; behind what makes the message readable."""
    if name == "ensemble" and not (bundle / "configs" / "ensemble.json").is_file():
        pytest.skip("a file of one bundle")
    first = [step["_target_"] if isinstance(step, dict) else step for step in read(bundle, name)["initialize"][:2]]
    assert [re.sub(r"^\$|\(\)$", "", step).rpartition(".")[2] for step in first] == [
        "readable_errors",
        "check_overrides",
    ]


def test_commands_of_the_readme_have_no_misspelt_key(bundle):
    for names, given in Bundle(bundle.name).readme_runs():
        values = {key: DefaultParseValue(value) for key, value in given.items()}
        assert override_problems([bundle / name for name in names], values) == []


def test_methods_of_a_bundle_add_no_key_that_nothing_reads(bundle):
    configs = {path.stem: path for path in (bundle / "configs").glob("*.json")}
    for name in configs.keys() - {"train", "inference", "metadata", "compare"}:
        before = "inference" if "inference" in name else "train"
        assert override_problems([configs[before], configs[name]]) == [], name


def test_every_given_file_can_have_a_digest(bundle):
    """A teacher's, a backbone's; what is written by the training itself is not given."""
    train = read(bundle, "train")
    digests = {key for key in train if key.endswith("_sha256")}
    assert digests
    for path in (bundle / "configs").glob("*.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        for one in entries(config):
            if str(one.get("_target_")).rpartition(".")[2] in ("FrozenTeacher", "serve_teacher"):
                assert re.sub(r"checkpoints?", "sha256", one["checkpoint"]) == one["sha256"], path.name
        for text in strings(config):
            for call in re.findall(
                r"\b(?:load_backbone|load_densenet_weights|load_weights|FrozenTeacher)\([^$]*", text
            ):
                assert "sha256" in call or "@ckpt_dir + '/' + @checkpoint" in call, f"{path.name}: {call}"
    asked = {
        name for path in (bundle / "configs").glob("*.json") for name in re.findall(r"@(\w+_sha256)", path.read_text())
    }
    assert digests <= asked


def test_masks_are_written_in_their_folder(bundle):
    """Where ``SaveImaged`` could leave it, by a folder above the data or by a link."""
    for path in (bundle / "configs").glob("*.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        for one in entries(config):
            if one.get("_target_") != "SaveImaged":
                continue
            if "folder_layout" not in one:  # a stock MONAI can read the file
                assert "data_root_dir" not in one
                links = {"_target_": "monai_kd.data.refuse_links", "folder": one["output_dir"], "ending": "_seg.nii.gz"}
                assert links in config["initialize"]
                continue
            # An override of ``SaveImaged``'s own settings is one of the layout's.
            layout = {"_target_": "monai_kd.data.InsideLayout", "makedirs": True}
            keys = {"output_dir": "output_dir", "output_postfix": "postfix", "output_ext": "extension"}
            keys |= {"separate_folder": "parent", "data_root_dir": "data_root_dir"}
            assert one["folder_layout"] == layout | {theirs: f"@##{ours}" for ours, theirs in keys.items()}
            assert keys.keys() <= one.keys()


def named(handlers, name):
    return [index for index, handler in enumerate(handlers) if handler["_target_"].rpartition(".")[2] == name]


def test_history_is_written_after_each_validation(bundle):
    """Of the epoch's own scores, so its handler comes right after the one that validates, and names the same engine."""
    handlers = read(bundle, "train")["train"]["handlers"]
    (index,) = named(handlers, "SaveHistory")
    assert index - 1 == named(handlers, "ValidationHandler")[-1]
    assert handlers[index]["validator"] == handlers[index - 1]["validator"] == "@validate#evaluator"
    assert handlers[index]["path"] == "$@output_dir + '/' + @run_name + '.history.csv'"


# MONAI Label.


def test_handlers_are_written_in_place(bundle):
    """MONAI Label reads ``_target_`` of each handler in the file; a reference has none."""
    train = read(bundle, "train")
    for handlers in (train["train"]["handlers"], train["validate"]["handlers"]):
        assert handlers
        assert all(isinstance(handler["_target_"], str) for handler in handlers)


def test_weights_of_the_student_have_the_shortest_name(bundle):
    """Of all files in models/ MONAI Label serves the one with the shortest name unless a request names one."""
    configs = [json.loads(path.read_text(encoding="utf-8")) for path in (bundle / "configs").glob("*.json")]
    names = {config["checkpoint"] for config in configs if "checkpoint" in config}
    assert [name for name in names if name != "model.pt" and len(name) <= len("model.pt")] == []
