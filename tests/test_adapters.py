from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from monai_kd.adapters import ChannelAdapter, ProjectionAdapter

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


@pytest.mark.parametrize(("student", "teacher"), [([(2, 3, 4, 4)], (2, 3, 4, 4)), ((2, 3, 4, 4), [(2, 3, 4, 4)] * 4)])
def test_a_projection_of_lists_is_refused(student, teacher):
    with pytest.raises(ValueError, match=r"one student and one teacher tap.*take ChannelAdapter"):
        ProjectionAdapter(student, teacher)


# --- channels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [0, 1, 2, 3])
def test_channels_become_those_of_all_teacher_features(dims):
    student, teachers = (2, 3, *[4] * dims), [(2, 5, *[8] * dims), (2, 2, *[2] * dims)]
    assert ChannelAdapter(student, teachers[0])(torch.randn(student)).shape == (2, 5, *[4] * dims)
    assert ChannelAdapter(student, teachers)(torch.randn(student)).shape == (2, 7, *[4] * dims)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_several_features_are_joined_at_the_smallest(dims):
    features = [torch.randn(2, channels, *[side] * dims) for channels, side in [(3, 6), (2, 4), (4, 8)]]
    adapter = ChannelAdapter([tuple(x.shape) for x in features], (2, 5, *[12] * dims))
    small = [F.interpolate(x, size=[4] * dims, mode=MODES[dims], align_corners=False) for x in features]
    torch.testing.assert_close(adapter(features), adapter.projection(torch.cat(small, dim=1)))


def test_joining_is_the_sum_of_one_projection_a_feature():
    """Projecting each at its own size, then resizing and adding, is the same."""
    features = [torch.randn(2, 3, 8, 8), torch.randn(2, 2, 4, 4)]
    adapter = ChannelAdapter([tuple(x.shape) for x in features], (2, 5, 4, 4))
    weight, bias = adapter.projection.weight, adapter.projection.bias
    large = F.interpolate(F.conv2d(features[0], weight[:, :3], bias), size=(4, 4), mode="bilinear", align_corners=False)
    torch.testing.assert_close(adapter(features), large + F.conv2d(features[1], weight[:, 3:]))


def test_gradient_reaches_every_feature_and_the_projection():
    features = [torch.randn(2, 3, 8, 8, requires_grad=True), torch.randn(2, 2, 4, 4, requires_grad=True)]
    adapter = ChannelAdapter([tuple(x.shape) for x in features], (2, 5, 4, 4))
    adapter(features).square().sum().backward()
    assert all(x.grad.any() for x in (*features, *adapter.parameters()))
    assert adapter.projection.weight.grad.flatten(1).any(dim=0).all()


def test_channels_of_features_with_other_axes_are_refused():
    with pytest.raises(ValueError, match=r"as many axes; got student \(2, 3, 4\), \(2, 3, 4, 4\), teacher \(2, 5, 4\)"):
        ChannelAdapter([(2, 3, 4), (2, 3, 4, 4)], (2, 5, 4))
