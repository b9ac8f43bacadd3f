from __future__ import annotations

import doctest
import importlib
import itertools

import pytest
import torch
import torch.nn.functional as F
from monai.engines import SupervisedTrainer
from monai.losses import DiceCELoss
from monai.networks.nets import (
    BasicUNet,
    BasicUNetPlusPlus,
    DynUNet,
    SegResNet,
    SegResNetDS,
    SwinUNETR,
    UNet,
)
from monai.networks.nets.unet import CheckpointUNet
from torch import nn

from monai_kd.distiller import DistillationTerm, Distiller
from monai_kd.handlers import DistillationHandler, log_terms
from monai_kd.losses.deep_supervision import StackedDeepSupervisionLoss
from monai_kd.methods import hlfd_terms
from monai_kd.networks import (
    EncoderDecoderTaps,
    NestedUNet,
    ResNetFCN,
    SpaceToDepthDynUNet,
    UNet2d,
    encoder_decoder_taps,
)
from monai_kd.taps import FeatureTaps
from monai_kd.teachers import FrozenTeacher

SIZES = {2: 32, 3: 16}


def dynunet(dims, levels=4, heads=0, filters=(4, 6, 8, 10, 12)):
    return DynUNet(
        dims,
        1,
        3,
        kernel_size=[3] * levels,
        strides=[1] + [2] * (levels - 1),
        upsample_kernel_size=[2] * (levels - 1),
        filters=filters[:levels],
        deep_supervision=heads > 0,
        deep_supr_num=max(heads, 1),
    )


FEATURES = (2, 3, 4, 5, 6, 4)  # with batch statistics, as 16 voxels end in one
NETWORKS = {
    "DynUNet": dynunet,
    "DynUNet3": lambda dims: dynunet(dims, levels=3),
    "DynUNetDeep": lambda dims: dynunet(dims, heads=2),
    "SpaceToDepthDynUNet": lambda dims: SpaceToDepthDynUNet(
        dims, 1, 3, [3] * 3, (1, 2, 2), (2, 2), (4, 6, 8), deep_supervision=True, deep_supr_num=1
    ),
    "UNet": lambda dims: UNet(dims, 1, 3, channels=(2, 4, 6, 8), strides=(2, 2, 2)),
    "UNetResidual": lambda dims: UNet(
        dims, 1, 3, (2, 4, 6, 8), (2, 2, 2), num_res_units=1, act=("relu", {"inplace": True})
    ),
    "BasicUNet": lambda dims: BasicUNet(dims, 1, 3, FEATURES, norm="batch"),
    "SegResNet": lambda dims: SegResNet(dims, 8, 1, 3),
    "SegResNetDS": lambda dims: SegResNetDS(dims, 4, 1, 3, blocks_down=(1, 1, 1), dsdepth=2),
    "BasicUNetPlusPlus": lambda dims: BasicUNetPlusPlus(dims, 1, 3, FEATURES, norm="batch"),
    "BasicUNetPlusPlusDeep": lambda dims: BasicUNetPlusPlus(dims, 1, 3, FEATURES, norm="batch", deep_supervision=True),
    "UNet2d": lambda dims: UNet2d(out_channels=3, channels=(2, 4, 6, 8)),
    "NestedUNet": lambda dims: NestedUNet(out_channels=3, channels=(2, 4, 6, 8)),
    "ResNetFCN": lambda dims: ResNetFCN(out_channels=3, channels=(2, 4, 6, 8)),
}
SLICES_ONLY = ("UNet2d", "NestedUNet", "ResNetFCN")
CASES = [(name, dims) for name in NETWORKS for dims in (2, 3) if dims == 2 or name not in SLICES_ONLY]
# Each is once student and once teacher.
NAMES = {
    2: list(NETWORKS),
    3: [
        *("DynUNet3", "DynUNetDeep", "SpaceToDepthDynUNet", "UNet"),
        *("BasicUNet", "SegResNet", "BasicUNetPlusPlus"),
    ],
}
PAIRS = [(dims, one, NAMES[dims][i - 1]) for dims in (2, 3) for i, one in enumerate(NAMES[dims])]
every_network = pytest.mark.parametrize(("name", "dims"), CASES)


def images(dims, seed=0):
    return torch.randn(2, 1, *[SIZES[dims]] * dims, generator=torch.Generator().manual_seed(seed))


def make(name, dims):
    torch.manual_seed(0)
    return NETWORKS[name](dims)


def first(output, dims):
    """The full-resolution head of whatever a network returns."""
    if isinstance(output, list | tuple):
        return output[0 if output[0].shape[2:] > output[-1].shape[2:] else -1]
    return output[:, 0] if output.ndim == dims + 3 else output


def tapped(network, x):
    taps = encoder_decoder_taps(network)
    names = [name for name in (*taps.encoder, *taps.decoder, *taps.heads) if name != "output"]
    with FeatureTaps(network, names) as recorder:
        output = network(x)
        return taps, output, {"output": output, **recorder.outputs()}


@every_network
def test_sizes_fall_to_the_bottleneck_and_rise_again(name, dims):
    taps, _, values = tapped(make(name, dims).eval(), images(dims))
    down = [values[layer].shape[2:].numel() for layer in taps.encoder]
    up = [values[layer].shape[2:].numel() for layer in taps.decoder]
    assert len(down) >= 3
    assert all(shallow > deep for shallow, deep in itertools.pairwise(down))
    assert up == down[-2::-1]


@every_network
@pytest.mark.parametrize("training", [True, False])
def test_the_head_makes_what_the_network_returns(name, dims, training):
    taps, output, values = tapped(make(name, dims).train(training), images(dims))
    head = values[taps.head]
    assert head.shape == (2, 3, *[SIZES[dims]] * dims)
    assert torch.equal(head, first(output, dims))
    assert taps.heads[0] == taps.head


@every_network
def test_no_tap_is_overwritten(name, dims):
    network = make(name, dims).train()
    taps = encoder_decoder_taps(network)
    fresh = {}
    for layer in {*taps.encoder, *taps.decoder, *taps.heads} - {"output"}:
        network.get_submodule(layer).register_forward_hook(
            lambda module, args, output, layer=layer: fresh.__setitem__(layer, output.detach().clone())
        )
    _, _, values = tapped(network, images(dims))
    assert fresh
    for layer, value in fresh.items():
        assert torch.equal(values[layer], value)


@pytest.mark.parametrize("dims", [2, 3])
def test_heads_of_deep_supervision_answer_in_both_modes(dims):
    for training in (True, False):
        network = make("DynUNetDeep", dims).train(training)
        taps, output, values = tapped(network, images(dims))
        heads = [values[head] for head in taps.heads]
        assert [tuple(head.shape) for head in heads] == [(2, 3, *[SIZES[dims] >> i] * dims) for i in range(3)]
        if training:
            resized = [F.interpolate(head, output.shape[3:]) for head in heads]
            assert torch.equal(output, torch.stack(resized, dim=1))
    network = make("SegResNetDS", dims)
    taps, output, values = tapped(network.train(), images(dims))
    assert taps.heads == ("up_layers.1.head", "up_layers.0.head")
    assert all(torch.equal(values[head], item) for head, item in zip(taps.heads, output))
    network.eval()
    assert [tapped(network, images(dims))[2][head].shape[2] for head in taps.heads] == [SIZES[dims], SIZES[dims] // 2]
    taps, output, values = tapped(make("BasicUNetPlusPlusDeep", dims), images(dims))
    assert all(torch.equal(values[head], item) for head, item in zip(taps.heads, output[::-1]))


@pytest.mark.parametrize("name", ["DynUNet", "UNet", "BasicUNet", "SegResNet", "BasicUNetPlusPlus", "UNet2d"])
def test_without_deep_supervision_there_is_one_head(name):
    taps = encoder_decoder_taps(make(name, 2))
    assert taps.heads == (taps.head,)


def resized(student, teacher):
    """Any taps against any others, of other sizes, channels and counts."""
    pairs = [(one, teacher[i % len(teacher)]) for i, one in enumerate(student)]
    means = [(one.mean(1, keepdim=True), other.mean(1, keepdim=True)) for one, other in pairs]
    return torch.stack([(F.interpolate(one, other.shape[2:]) - other).square().mean() for one, other in means]).sum()


def task_loss(prediction, label):
    return StackedDeepSupervisionLoss(DiceCELoss(to_onehot_y=True, softmax=True))(prediction, label)


def terms_between(student, teacher):
    return [
        DistillationTerm("encoders", resized, student.encoder, teacher.encoder),
        DistillationTerm("decoders", resized, student.decoder, teacher.decoder),
        DistillationTerm("heads", resized, student.heads, teacher.heads),
    ]


@pytest.mark.parametrize(("dims", "student_name", "teacher_name"), PAIRS)
def test_a_training_step_by_naming_taps_only(dims, student_name, teacher_name):
    student, teacher = make(student_name, dims), make(teacher_name, dims)
    terms = terms_between(encoder_decoder_taps(student), encoder_decoder_taps(teacher))
    x = images(dims)
    distiller = Distiller(student, FrozenTeacher(teacher), terms, input_shape=tuple(x.shape))
    expected = by_hand(student, teacher, terms, x)
    handler = DistillationHandler(distiller, task_weight=0.0)
    batch = {"image": x, "label": (x > 0).long()}
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    trainer = SupervisedTrainer("cpu", 1, [batch], student, optimizer, task_loss, train_handlers=[handler])
    before = {name: value.clone() for name, value in student.named_parameters()}
    trainer.run()
    terms_seen = log_terms(trainer.state.output)
    assert {name: terms_seen[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    moved = {name for name, value in student.named_parameters() if not torch.equal(value, before[name])}
    for layer in encoder_decoder_taps(student).encoder:
        names = {f"{layer}.{name}" for name, _ in student.get_submodule(layer).named_parameters()}
        assert not names or moved & names, f"no gradient reached {layer}"


def by_hand(student, teacher, terms, x):
    """The terms of plain forward passes, the student's in train mode; its batch statistics are put back."""
    state = {key: value.clone() for key, value in student.state_dict().items()}
    with torch.no_grad():
        ours, theirs = tapped(student.train(), x)[2], tapped(teacher.eval(), x)[2]
        student.load_state_dict(state)
        ours["output"], theirs["output"] = first(ours["output"], x.ndim - 2), first(theirs["output"], x.ndim - 2)
        return {
            term.name: resized(
                [ours[tap] for tap in term.student_taps], [theirs[tap] for tap in term.teacher_taps]
            ).item()
            for term in terms
        }


@pytest.mark.parametrize(("dims", "student_name", "teacher_name"), PAIRS)
def test_hlfd_across_architectures_by_naming_taps_only(dims, student_name, teacher_name):
    student, teacher = make(student_name, dims).train(), make(teacher_name, dims)
    ours, theirs = encoder_decoder_taps(student), encoder_decoder_taps(teacher)
    x = torch.randn(2, 1, *[{2: 64, 3: 32}[dims]] * dims)  # no bottleneck of one voxel
    distiller = Distiller(student, FrozenTeacher(teacher), hlfd_terms(ours, theirs), input_shape=tuple(x.shape))
    with FeatureTaps(student, distiller.student_taps) as recorder:
        values = {"output": student(x), **recorder.outputs()}
        distiller.total(distiller(values, {"image": x}), epoch=1).backward()
    # The last encoder level is reached through the decoder that it feeds.
    layers = ours.encoder[:-1] if student_name == "ResNetFCN" else (*ours.encoder, *ours.decoder)
    for layer in layers:
        parameters = list(student.get_submodule(layer).parameters())
        assert not parameters or any(p.grad is not None and p.grad.any() for p in parameters), layer


def test_unknown_networks_are_refused():
    with pytest.raises(TypeError, match=r"SwinUNETR are not known here \(known: DynUNet, .*NestedUNet.*Make them"):
        encoder_decoder_taps(SwinUNETR(in_channels=1, out_channels=2, feature_size=12, spatial_dims=2))


def test_a_subclass_with_other_layers_is_refused():
    with pytest.raises(ValueError, match=r"CheckpointUNet\) has no layer named 'model.1.submodule.0'"):
        encoder_decoder_taps(CheckpointUNet(2, 1, 2, (2, 4, 6, 8), (2, 2, 2)))


def test_wrappers_are_looked_through():
    network, compiled = make("DynUNet", 2), nn.Module()
    compiled._orig_mod = network  # as torch.compile does it
    assert encoder_decoder_taps(compiled) == encoder_decoder_taps(network)


def test_a_segresnet_without_final_convolution_ends_in_its_output():
    network = SegResNet(2, 8, 1, 3, use_conv_final=False)
    assert encoder_decoder_taps(network).head == "output"


def test_own_taps_are_checked_and_take_the_lists_of_a_config():
    taps = EncoderDecoderTaps(encoder=["a", "b"], decoder=["c"], head="d")
    assert taps == EncoderDecoderTaps(("a", "b"), ("c",), "d", ("d",))
    assert hash(taps) == hash(EncoderDecoderTaps(("a", "b"), ("c",), "d"))
    with pytest.raises(ValueError, match="encoder names no layer"):
        EncoderDecoderTaps(encoder=(), decoder=("c",), head="d")
    with pytest.raises(ValueError, match="start with the full-resolution head 'd'"):
        EncoderDecoderTaps(encoder=("a",), decoder=(), head="d", heads=("e", "d"))


@pytest.mark.parametrize(
    ("filters", "plain", "deep"),
    [((32, 64, 128, 256, 320), 16_543_683, 16_544_265), ((8, 16, 32, 64, 80), 1_035_123, 1_035_273)],
)
def test_parameters_of_the_kidney_networks(filters, plain, deep):
    def count(heads):
        with torch.device("meta"):
            network = dynunet(3, levels=5, heads=heads, filters=filters)
        return sum(p.numel() for p in network.parameters())

    assert (count(0), count(2)) == (plain, deep)


def test_examples_run():
    module = importlib.import_module("monai_kd.networks.encoder_decoder_taps")
    assert doctest.testmod(module, extraglobs={"torch": torch, "nn": nn}).failed == 0
