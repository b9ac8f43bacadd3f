"""``cached_teacher.json`` after ``train.json``: each view is answered once, and then read."""

import pytest

from monai_kd.teachers import CachedTeacher

from .first_steps import NAMES, first_steps, prepared

OVERRIDE = "cached_teacher.json"


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def common(name, tmp_path_factory):
    common = prepared(name, tmp_path_factory.mktemp("data") / "cases", tmp_path_factory.mktemp("run"))
    return {**common, "epochs": 1, "epoch_length": 3, "teacher_views": 2}


def stored(folder):
    return len(list(folder.rglob("*.pt")))


def test_a_second_run_reads_what_the_first_has_stored(name, common, tmp_path):
    folder = tmp_path / "answers"
    more = {"teacher_cache_dir": str(folder)}
    first, expected, _ = first_steps(name, common, OVERRIDE, output_dir=str(tmp_path / "a"), **more)
    before = stored(folder)
    again, found, student = first_steps(name, common, OVERRIDE, output_dir=str(tmp_path / "b"), **more)
    for earlier, later in zip(first.values(), again.values()):
        assert isinstance(later, CachedTeacher)
        # The image of the distiller's dry run is answered and not kept.
        assert earlier.misses - 1 == before / len(first) > 0
        assert later.hits == earlier.hits + earlier.misses - 1
        assert later.misses == 1
    assert stored(folder) == before
    assert len(found) == 3
    assert found == expected  # stored or not, an answer is rounded alike
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in student.parameters())


def test_labelled_and_unlabelled_cases_are_answered(name, common, tmp_path):
    folder = tmp_path / "answers"
    more = {"labelled_fraction": 0.5, "epoch_length": 8, "teacher_cache_dir": str(folder)}
    served, found, _ = first_steps(name, common, OVERRIDE, output_dir=str(tmp_path), **more)
    assert len(found) == 8
    for one in served.values():
        assert one.misses - 1 == stored(folder) / len(served)
        assert one.hits > 0  # eight steps see some of the two views of each case again
