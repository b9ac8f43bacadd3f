"""``runtime_teacher.json`` after ``train.json``: the step of the eager teacher, to what float32 leaves."""

import json

import pytest
import torch
from monai.engines.utils import IterationEvents

from monai_kd.data import make_ct_cases, make_polyp_frames
from monai_kd.teachers import FrozenTeacher, RuntimeTeacher

from .running import BUNDLES, Bundle
from .test_hlfd_tumor_segmentation import settings as hlfd_settings
from .test_hlfd_tumor_segmentation import some_cases
from .test_kdas_polyp_segmentation import settings as kdas_settings

pytest.importorskip("openvino")

NAMES = ["hlfd_kidney_tumor_segmentation", "hlfd_liver_tumor_segmentation", "kdas_polyp_segmentation"]
OVERRIDE = "runtime_teacher.json"


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def common(name, tmp_path_factory):
    """Settings of a run on generated data, with a teacher of random weights."""
    data, folder = tmp_path_factory.mktemp("data") / "cases", tmp_path_factory.mktemp("run")
    if name.startswith("hlfd"):
        organ = name.split("_")[1]
        make_ct_cases(data, 8, organ=organ, ids=some_cases(organ), size=(40, 40, 32), spacing=(8.0, 8.0, 8.0))
        common = hlfd_settings(organ, data, folder)
    else:
        common = kdas_settings(make_polyp_frames(data, count=20, size=(64, 80)), folder)
    torch.manual_seed(5)
    network = Bundle(name).unstarted("train.json", **common).get_parsed_content("teacher_def")
    (folder / "models").mkdir()
    torch.save(network.state_dict(), folder / "models" / "teacher.pt")
    return common


def first_steps(name, common, *files, **more):
    """Teacher, losses of the first steps, and the student behind them."""
    flow = Bundle(name).workflow("train.json", *files, **{**common, **more})
    flow.initialize()
    trainer = flow.parser.get_parsed_content("train#trainer")
    seen = []
    trainer.add_event_handler(IterationEvents.LOSS_COMPLETED, lambda engine: seen.append(terms(engine.state.output)))
    flow.run()
    flow.finalize()
    return flow.parser.get_parsed_content("teacher"), seen, flow.parser.get_parsed_content("network_def")


def terms(output):
    return {key: value.item() for key, value in output.items() if isinstance(value, torch.Tensor) and value.ndim == 0}


def test_steps_are_those_of_the_eager_teacher(name, common, tmp_path):
    eager, expected, _ = first_steps(name, common, output_dir=str(tmp_path / "a"))
    served, found, student = first_steps(name, common, OVERRIDE, output_dir=str(tmp_path / "b"), teacher_threads=1)
    assert isinstance(eager, FrozenTeacher)
    assert isinstance(served, RuntimeTeacher)
    assert (served.precision, served.num_threads) == ("f32", 1)
    assert served.export.folder == tmp_path / "b" / "runtime_teacher"
    assert len(found) == len(expected) == 2
    assert found[0].keys() == expected[0].keys()
    assert found[0] == pytest.approx(expected[0], rel=1e-5, abs=1e-6)
    # Adam's first step is the sign of a gradient, that of one near 0 as well.
    assert found[1] == pytest.approx(expected[1], rel=1e-2)
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in student.parameters())


def test_it_is_a_small_override(name):
    override = json.loads((BUNDLES / name / "configs" / OVERRIDE).read_text(encoding="utf-8"))
    assert override["teacher"]["_target_"] == "monai_kd.export.serve_teacher"
    assert {"teacher_exported_dir", "teacher_precision", "teacher_threads", "teacher_shapes"} <= override.keys()
    assert len(override) <= 6
