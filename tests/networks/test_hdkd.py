from __future__ import annotations

import copy
import doctest
import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks import convert_to_torchscript
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from monai_kd import FeatureTaps
from monai_kd.checkpoints import load_weights
from monai_kd.losses import HintLoss
from monai_kd.networks import HDKDStudent, HDKDTeacher, hdkd

# Outputs of the released networks on one input, weights filled by ``hash_fill``: logits of the first item.
CLS = [
    *(0.5012209664933815, 0.7137672509725228, 1.1814487245611796, 1.2654625448598842),
    *(-0.2950137486819803, 0.25572744139315307, 0.47497944218337784),
]
DISTILL = [
    *(0.47559397533405756, 0.7443924725082562, 1.1761188948994679, 1.2620659293427172),
    *(-0.299136510697152, 0.2556619411671295, 0.47382008511842644),
]
TEACHER = [
    *(0.0009731149154533955, 0.00010542682529076806, 0.00017058021946533505, -0.0003944162107698834),
    *(-0.0012060889540035332, 9.480005666526531e-05, 6.155620185566404e-05),
]
FEATURE_ERRORS = [0.009616150828577578, 0.006603532160032116, 0.003146726910664218]

STAGES = ["stage1", "stage2", "stage3"]
TINY = {"channels": (4, 6, 8, 16), "depths": (1, 2, 1, 1), "num_heads": 2, "dim_head": 4}
every_dimension = pytest.mark.parametrize("dims", [2, 3])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def student(dims=2, in_channels=1, num_classes=3, img_size=32, **kwargs):
    return HDKDStudent(dims, in_channels, num_classes, img_size, **{**TINY, **kwargs})


def teacher(dims=2, in_channels=1, num_classes=3):
    return HDKDTeacher(dims, in_channels, num_classes, channels=(4, 6, 8), depths=(2, 2, 1), hidden_size=5)


def hash_fill(network: nn.Module, gain: float) -> nn.Module:
    """Weights that depend on shapes and positions only, so any implementation in the right layout must agree."""
    for name, parameter in network.named_parameters():
        if parameter.ndim < 2:
            nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
            continue
        h = (747796405 * np.arange(parameter.numel(), dtype=np.uint64) + 2891336453) & 0xFFFFFFFF
        h = (((h >> ((h >> np.uint64(28)) + np.uint64(4))) ^ h) * np.uint64(277803737)) & np.uint64(0xFFFFFFFF)
        uniform = ((h >> np.uint64(22)) ^ h) / 2.0**32
        weights = (2 * uniform - 1) * math.sqrt(6 * parameter.shape[0] / parameter.numel()) * gain
        parameter.data = torch.from_numpy(weights).reshape(parameter.shape)
    return network.double().eval()


def golden():
    if "MONAI_KD_DATA" not in os.environ:
        pytest.skip("the golden files lie next to $MONAI_KD_DATA, which is not set")
    file = Path(os.environ["MONAI_KD_DATA"]).parent / "golden" / "hdkd.npz"
    if not file.is_file():
        pytest.skip(f"no golden file {file}")
    return {name: torch.from_numpy(value) for name, value in np.load(file).items()}


@pytest.mark.parametrize(
    ("make", "parameters", "multiplications"),
    [
        (lambda k: HDKDTeacher(2, 3, k), {7: 3_948_677, 4: 3_948_290}, 5.70e9),
        (lambda k: HDKDStudent(2, 3, k, distill_token=False), {7: 3_724_977, 4: 3_724_206}, 2.02e9),
        (lambda k: HDKDStudent(2, 3, k), {7: 3_727_288, 4: 3_725_746}, 2.03e9),
    ],
    ids=["teacher", "student alone", "student"],
)
@pytest.mark.parametrize("num_classes", [7, 4])
def test_published_size_and_cost(make, parameters, multiplications, num_classes):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        network = make(num_classes).eval()
        network(torch.empty(1, 3, 224, 224))
    assert sum(p.numel() for p in network.parameters()) == parameters[num_classes]
    assert counter.get_total_flops() / 2 == pytest.approx(multiplications, abs=0.005e9)


def test_sizes_of_the_students_parts():
    with torch.device("meta"):
        network = HDKDStudent(2, 3, 7)
    parts = (*STAGES, "DFLT_module")
    counts = [sum(p.numel() for p in network.get_submodule(part).parameters()) for part in parts]
    assert counts == [38_848, 156_676, 912_102, 2_616_064]


def test_values_of_the_released_networks():
    x = torch.sin(0.001 * torch.arange(2 * 3 * 224 * 224, dtype=torch.float64)).reshape(2, 3, 224, 224)
    ours, theirs = hash_fill(HDKDStudent(2, 3, 7), 0.5), hash_fill(HDKDTeacher(2, 3, 7), 0.5)
    with torch.no_grad(), FeatureTaps(ours, STAGES) as our_taps, FeatureTaps(theirs, STAGES) as their_taps:
        z_cls, z_distill = ours.heads(x)
        z_teacher = theirs(x)
        features = [(our_taps.outputs()[stage], their_taps.outputs()[stage]) for stage in STAGES]
    assert z_cls[0].tolist() == pytest.approx(CLS, rel=1e-9)
    assert z_distill[0].tolist() == pytest.approx(DISTILL, rel=1e-9)
    assert z_teacher[0].tolist() == pytest.approx(TEACHER, rel=1e-9)
    shapes = [(2, 64, 112, 112), (2, 96, 56, 56), (2, 192, 28, 28)]
    assert [(a.shape, b.shape) for a, b in features] == [(shape, shape) for shape in shapes]
    assert [HintLoss()(a, b).item() for a, b in features] == pytest.approx(FEATURE_ERRORS, rel=1e-9)


def test_loads_released_weights_and_gives_their_outputs():
    values = golden()
    networks = {
        "teacher": HDKDTeacher(2, 3, 7, channels=(16, 24, 32), depths=(2, 2, 2)).eval(),
        "student": HDKDStudent(2, 3, 7, 32, (16, 24, 32, 40), (1, 1, 1, 1), num_heads=2, dim_head=8).eval(),
    }
    outputs = {}
    for name, network in networks.items():
        state = {key.removeprefix(f"{name}."): value for key, value in values.items() if key.startswith(f"{name}.")}
        load_weights(network, state)
        with torch.no_grad(), FeatureTaps(network, network.tap_points) as taps:
            outputs[name] = network(values["x"])
            features = taps.outputs()
        for stage in STAGES:
            torch.testing.assert_close(features[stage], values[f"{name}_{stage}"], rtol=1e-5, atol=1e-5)
        if name == "student":
            torch.testing.assert_close(features["head_cls"], values["student_cls"], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(features["head_distill"], values["student_distill"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(outputs["teacher"], values["teacher_logits"], rtol=1e-5, atol=1e-5)
    mean = (values["student_cls"] + values["student_distill"]) / 2
    torch.testing.assert_close(outputs["student"], mean, rtol=1e-5, atol=1e-5)


@every_dimension
def test_stages_have_the_teachers_shapes(dims):
    x = torch.randn(2, 1, *[32, 48, 16][:dims])
    ours, theirs = student(dims, img_size=x.shape[2:]).stages(x), teacher(dims).stages(x)
    for i, (mine, other) in enumerate(zip(ours, theirs)):
        assert mine.shape == other.shape == (2, (4, 6, 8)[i], *(size // 2 ** (i + 1) for size in x.shape[2:]))


@every_dimension
def test_class_head_in_training_both_heads_in_evaluation(dims):
    network, x = student(dims, distill_share=0.7), torch.randn(2, 1, *[32] * dims)
    for training in (True, False):
        network.train(training)
        with FeatureTaps(network, ["head_cls", "head_distill"]) as taps:
            y = network(x)
            z_cls, z_distill = taps.outputs().values()
        assert y.shape == z_cls.shape == z_distill.shape == (2, 3)
        torch.testing.assert_close(y, z_cls if training else 0.3 * z_cls + 0.7 * z_distill)
    torch.testing.assert_close(student(dims, distill_share=0.5).distill_share, 0.5)


def test_student_alone_has_one_head():
    network, x = student(distill_token=False), torch.randn(2, 1, 32, 32)
    assert not [name for name in network.state_dict() if "distill" in name]
    (z_cls,) = network.eval().heads(x)
    assert torch.equal(network(x), z_cls)


@every_dimension
def test_every_parameter_learns(dims):
    x = torch.randn(2, 1, *[32] * dims)
    ours = student(dims, channels=(16, 16, 16, 16))
    sum(z.square().mean() for z in ours.heads(x)).backward()
    theirs = teacher(dims)
    theirs(x).square().mean().backward()
    for network in (ours, theirs):
        assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@every_dimension
@pytest.mark.parametrize("make", [student, teacher])
def test_bfloat16_autocast(make, dims):
    network = make(dims)
    with torch.autocast("cpu", torch.bfloat16):
        y = network(torch.randn(2, 1, *[32] * dims))
    y.float().square().mean().backward()
    assert y.isfinite().all()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@every_dimension
@pytest.mark.parametrize("make", [student, teacher])
def test_traced_network_answers_alike(make, dims, tmp_path):
    network, x = make(dims).eval(), torch.randn(1, 1, *[32] * dims)
    path = str(tmp_path / "network.ts")
    convert_to_torchscript(network, filename_or_obj=path, inputs=[x], use_trace=True)
    two = torch.randn(2, 1, *[32] * dims)  # another batch size
    torch.testing.assert_close(torch.jit.load(path)(two), network(two))


def test_copies_and_pickles():
    network, x = student().eval(), torch.randn(1, 1, 32, 32)
    assert torch.equal(copy.deepcopy(network)(x), network(x))
    assert torch.equal(pickle.loads(pickle.dumps(network))(x), network(x))  # noqa: S301


def test_tap_points_exist():
    for network in (student(), teacher()):
        with FeatureTaps(network, network.tap_points) as taps:
            network(torch.randn(2, 1, 32, 32))
            assert tuple(taps.outputs()) == network.tap_points


@every_dimension
def test_teacher_takes_any_size(dims):
    assert teacher(dims).eval()(torch.randn(1, 1, *[37, 20, 9][:dims])).shape == (1, 3)


@every_dimension
def test_student_takes_any_size(dims):
    """An axis of the last stage that no whole number of patches fills goes on with zeros."""
    size = [37, 20, 9][:dims]
    network, x = student(dims, img_size=size).eval(), torch.randn(1, 1, *size)
    last = network.stages(x)[-1]
    assert tuple(last.shape[2:]) == (5, 3, 2)[:dims]
    filled = torch.zeros(1, 8, *(6, 4, 2)[:dims])
    filled[(..., *(slice(0, width) for width in last.shape[2:]))] = last
    expected = network.head_cls(network.DFLT_module(filled)[:, 0])
    torch.testing.assert_close(network.heads(x)[0], expected)
    network.train()(torch.cat([x, x])).sum().backward()
    assert all(torch.isfinite(p.grad).all() for name, p in network.named_parameters() if "head_distill" not in name)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"img_size must be positive, got \(0, 0, 0\)"):
        student(3, img_size=0)
    with pytest.raises(ValueError, match=r"size \(32, 32\), got \(48, 32\); .*build the network with their img_size"):
        student()(torch.randn(1, 1, 48, 32))


@pytest.mark.parametrize("make", [student, teacher])
def test_other_images_are_refused(make):
    for shape in [(1, 3, 32, 32), (1, 32, 32), (1, 1, 32, 32, 32)]:
        with pytest.raises(ValueError, match=r"expected an image of shape \(B, 1, H, W\)"):
            make()(torch.randn(shape))
    with pytest.raises(ValueError, match=r"expected an image of shape \(B, 1, H, W, D\)"):
        make(3)(torch.randn(1, 1, 32, 32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": (4, 6, 8)}, r"channels needs 4 entries, .* got \(4, 6, 8\)"),
        ({"depths": (1, 1, 1)}, "depths needs 4 entries"),
        ({"depths": (1, 0, 1, 1)}, "every stage needs a block"),
        ({"distill_share": 1.5}, r"distill_share must lie in \[0, 1\], got 1.5"),
        ({"dims": 1}, "spatial_dims must be 2 or 3, got 1"),
    ],
)
def test_arguments_are_checked(change, message):
    with pytest.raises(ValueError, match=message):
        student(**change)


def test_examples_run():
    result = doctest.testmod(hdkd, extraglobs={"torch": torch})
    assert result.failed == 0
    assert result.attempted > 0
