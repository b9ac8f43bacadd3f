"""``runtime_teacher.json`` after ``train.json``: the step of the eager teacher, to what float32 leaves."""

import json

import pytest

from monai_kd.teachers import FrozenTeacher, RuntimeTeacher

from .first_steps import NAMES, first_steps, prepared
from .running import BUNDLES

pytest.importorskip("openvino")

OVERRIDE = "runtime_teacher.json"


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def common(name, tmp_path_factory):
    return prepared(name, tmp_path_factory.mktemp("data") / "cases", tmp_path_factory.mktemp("run"))


def test_steps_are_those_of_the_eager_teacher(name, common, tmp_path):
    common = {**common, "epochs": 1, "epoch_length": 2}
    eager, expected, _ = first_steps(name, common, output_dir=str(tmp_path / "a"))
    served, found, student = first_steps(name, common, OVERRIDE, output_dir=str(tmp_path / "b"), teacher_threads=1)
    assert eager.keys() == served.keys()
    assert all(isinstance(one, FrozenTeacher) for one in eager.values())
    for key, one in served.items():
        assert isinstance(one, RuntimeTeacher)
        assert (one.precision, one.num_threads) == ("f32", 1)
        folder = tmp_path / "b" / "runtime_teacher"
        assert one.export.folder == (folder if key == "teacher" else folder / key)
    assert len(found) == len(expected) == 2
    assert found[0].keys() == expected[0].keys()
    assert found[0] == pytest.approx(expected[0], rel=1e-5, abs=1e-6)
    # Adam's first step is the sign of a gradient, that of one near 0 as well.
    assert found[1] == pytest.approx(expected[1], rel=1e-2)
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in student.parameters())


def test_it_is_a_small_override(name):
    override = json.loads((BUNDLES / name / "configs" / OVERRIDE).read_text(encoding="utf-8"))
    teachers = [value for key, value in override.items() if key == "teacher" or key.startswith("teachers#")]
    assert {one["_target_"] for one in teachers} == {"monai_kd.export.serve_teacher"}
    assert {"teacher_exported_dir", "teacher_precision", "teacher_threads", "teacher_shapes"} <= override.keys()
    assert len(override) - len(teachers) <= 5
