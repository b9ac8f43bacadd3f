from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from monai_kd.adapters import ProjectionAdapter

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@pytest.mark.parametrize("dims", [0, 1, 2, 3])
def test_maps_to_the_teachers_shape(dims):
    student, teacher = (2, 3, *[4] * dims), (2, 5, *[8] * dims)
    assert ProjectionAdapter(student, teacher)(torch.randn(student)).shape == teacher


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_follows_the_image_size_of_each_batch(dims):
    adapter = ProjectionAdapter((2, 3, *[4] * dims), (2, 5, *[8] * dims))
    assert adapter(torch.randn(1, 3, *[6] * dims)).shape == (1, 5, *[12] * dims)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_shrinks_and_enlarges_each_axis_on_its_own(dims):
    teacher = (2, 5, 2, *[8] * (dims - 1))
    assert ProjectionAdapter((2, 3, *[4] * dims), teacher)(torch.randn(2, 3, *[4] * dims)).shape == teacher


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_resizing_first_gives_the_same(dims):
    adapter, feature = ProjectionAdapter((2, 3, *[4] * dims), (2, 5, *[8] * dims)), torch.randn(2, 3, *[4] * dims)
    resized = F.interpolate(feature, scale_factor=2, mode=MODES[dims], align_corners=False)
    torch.testing.assert_close(adapter(feature), adapter.projection(resized))


@pytest.mark.parametrize("dims", [0, 1, 2, 3])
def test_equal_sizes_only_project(dims):
    adapter, feature = ProjectionAdapter((2, 3, *[4] * dims), (2, 5, *[4] * dims)), torch.randn(2, 3, *[4] * dims)
    assert torch.equal(adapter(feature), adapter.projection(feature))


@pytest.mark.parametrize("dims", [0, 1, 2, 3])
def test_gradient_reaches_the_feature_and_the_projection(dims):
    adapter = ProjectionAdapter((2, 3, *[4] * dims), (2, 5, *[8] * dims))
    feature = torch.randn(2, 3, *[4] * dims, requires_grad=True)
    adapter(feature).square().sum().backward()
    assert feature.grad.any()
    assert adapter.projection.weight.grad.any()


@pytest.mark.parametrize(
    ("student", "teacher"), [((2, 3, 4, 4), (2, 3, 4, 4, 4)), ((2, 3), (2, 3, 4)), ((2,), (2,)), ((1,) * 6, (1,) * 6)]
)
def test_features_with_other_axes_are_refused(student, teacher):
    with pytest.raises(ValueError, match="as many axes; got student") as caught:
        ProjectionAdapter(student, teacher)
    assert str(student) in str(caught.value)
    assert str(teacher) in str(caught.value)
