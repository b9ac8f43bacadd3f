"""An exported student stands where MONAI expects a network."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedEvaluator
from monai.inferers import SimpleInferer, SlidingWindowInferer
from torch import nn

from monai_kd.inferers import RuntimeNetwork
from monai_kd.runtime import ExportError

ROI = (16, 16, 16)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 1)).eval()


@pytest.fixture
def served(export_network):
    return RuntimeNetwork(export_network(network(), (2, *ROI)), num_threads=1)


@pytest.mark.parametrize("sw_batch_size", [1, 3])
@pytest.mark.parametrize("kind", [torch.Tensor, MetaTensor])
def test_windows(served, kind, sw_batch_size):
    image = torch.randn(1, 2, 30, 20, 17)
    if kind is MetaTensor:
        image = MetaTensor(image, affine=torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0])))
    inferer = SlidingWindowInferer(ROI, sw_batch_size, overlap=0.5, mode="gaussian")
    with torch.no_grad():
        expected = inferer(image, network())
    got = inferer(image, served)
    assert type(got) is type(expected)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    if kind is MetaTensor:
        torch.testing.assert_close(got.affine, image.affine)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.uint8])
def test_any_kind_of_numbers(served, dtype):
    image = torch.randint(0, 9, (2, 2, *ROI)).to(dtype)
    got = SimpleInferer()(image, served)
    with torch.no_grad():
        torch.testing.assert_close(got, network()(image.float()), atol=1e-4, rtol=1e-4)
    assert type(got) is torch.Tensor


def test_meta_data_comes_along(served):
    image = MetaTensor(torch.randn(1, 2, *ROI), meta={"filename_or_obj": ["a.png"]})
    got = SimpleInferer()(image, served)
    assert got.meta["filename_or_obj"] == SimpleInferer()(image, network()).meta["filename_or_obj"] == ["a.png"]


def test_an_evaluator_runs_it(served):
    batches = [{"image": torch.randn(1, 2, *ROI), "label": torch.zeros(1, 1, *ROI)} for _ in range(2)]
    seen = []
    evaluator = SupervisedEvaluator(
        "cpu", batches, served, inferer=SimpleInferer(), decollate=False, postprocessing=None, amp=False
    )
    evaluator.add_event_handler("ITERATION_COMPLETED", lambda engine: seen.append(engine.state.output["pred"]))
    evaluator.run()
    for batch, answer in zip(batches, seen):
        with torch.no_grad():
            torch.testing.assert_close(answer, network()(batch["image"]), atol=1e-5, rtol=1e-5)


def test_it_does_not_learn(served):
    image = torch.randn(1, 2, *ROI, requires_grad=True)
    assert not served(image).requires_grad
    assert not list(served.parameters())
    assert not served.train().training
    assert not served.state_dict()


def test_the_answer_is_the_callers_own(served):
    image = torch.randn(1, 2, *ROI)
    first = served(image)
    kept = first.clone()
    first.mul_(0)
    torch.testing.assert_close(served(image), kept)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])  # noqa: S301
def test_copies_answer_too(served, again):
    image = torch.randn(1, 2, *ROI)
    torch.testing.assert_close(again(served)(image), served(image))


@pytest.mark.parametrize("shape", [(1, 1, *ROI), (1, 2, 16, 16, 8), (2, 16, 16, 16)])
def test_other_images_are_refused(served, shape):
    with pytest.raises(ValueError, match=r"takes float32 images of shape \(B, 2, 16, 16, 16\)"):
        served(torch.zeros(shape))


def test_it_says_what_it_is(served):
    assert "openvino, f32, 1 threads" in repr(served)


def test_what_was_not_verified_is_refused(export_network):
    folder = export_network(network(), (2, *ROI), verified={"openvino": ["f32"]})
    with pytest.raises(ExportError, match="verified with openvino in f32, not with openvino in bf16"):
        RuntimeNetwork(folder, precision="bf16")


def test_a_changed_file_is_refused(export_network):
    folder = export_network(network(), (2, *ROI))
    weights = np.fromfile(folder / "model.bin", np.uint8)
    weights[0] ^= 1
    weights.tofile(folder / "model.bin")
    with pytest.raises(ExportError, match=r"model\.bin' is not the file that was exported"):
        RuntimeNetwork(folder)
