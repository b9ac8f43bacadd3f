from __future__ import annotations

import copy
import doctest

import pytest
import torch
import torch.nn.functional as F
from monai.engines import SupervisedTrainer
from monai.networks.nets import BasicUNet, DynUNet
from torch import nn

from monai_kd import DistillationHandler, Distiller, FeatureTaps, FrozenTeacher
from monai_kd.losses import FocalDiceLoss
from monai_kd.methods import hlfd
from monai_kd.methods.hlfd import attention_terms, dkd_terms, hifd_terms, hlfd_terms, ifd_terms, skd_terms
from monai_kd.networks import EncoderDecoderTaps, encoder_decoder_taps

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
MODES = {2: "bilinear", 3: "trilinear"}
EVERY = [hlfd_terms, skd_terms, attention_terms, dkd_terms, hifd_terms, ifd_terms]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Net(nn.Module):
    """An encoder-decoder of n levels, level k of ``width + k`` channels; no normalisation, so that runs are exact."""

    def __init__(self, dims=2, levels=5, width=2, classes=3):
        super().__init__()
        conv, widths = CONVOLUTIONS[dims], [width + level for level in range(1, levels + 1)]
        self.e = nn.ModuleList(conv(a, b, 3, 1 if a == 1 else 2, 1) for a, b in zip([1, *widths], widths))
        self.d = nn.ModuleList(conv(a + b, b, 3, padding=1) for a, b in zip(widths[:0:-1], widths[-2::-1]))
        self.head = conv(widths[0], classes, 1)

    def forward(self, x):
        features = []
        for layer in self.e:
            x = layer(x).tanh()
            features.append(x)
        for layer, skip in zip(self.d, features[-2::-1]):
            x = layer(torch.cat([F.interpolate(x, size=skip.shape[2:]), skip], dim=1)).tanh()
        return self.head(x)


def taps_of(net):
    return EncoderDecoderTaps(
        encoder=tuple(f"e.{i}" for i in range(len(net.e))),
        decoder=tuple(f"d.{i}" for i in range(len(net.d))),
        head="head",
    )


def numbered(levels):
    """Names that say what they are: e1, ..., en; dn, ..., d2; out."""
    return EncoderDecoderTaps(
        encoder=tuple(f"e{k}" for k in range(1, levels + 1)),
        decoder=tuple(f"d{k}" for k in range(levels, 1, -1)),
        head="out",
    )


def named(levels):
    """The same of a teacher, in capitals."""
    taps = numbered(levels)
    return EncoderDecoderTaps(
        encoder=tuple(map(str.upper, taps.encoder)), decoder=tuple(map(str.upper, taps.decoder)), head="OUT"
    )


def wiring(terms):
    """{name: "student taps <- teacher taps"}."""
    return {term.name: f"{' '.join(term.student_taps)} <- {' '.join(term.teacher_taps)}" for term in terms}


# --- which layers teach which ---------------------------------------------------------------------------------------

OUTPUT = {"prediction_output": "out <- OUT"}


@pytest.mark.parametrize(
    ("terms_of", "expected"),
    [
        (
            hlfd_terms,
            {
                "importance_unified": "e1 <- E2 E3 E4",
                "importance_e2": "e2 <- E5",
                "importance_e3": "e3 <- E5",
                "importance_e4": "e4 <- E5",
                "prediction_unified": "d5 <- D5 D4 D3",
                "prediction_d4": "d4 <- OUT",
                "prediction_d3": "d3 <- OUT",
                "prediction_d2": "d2 <- OUT",
            },
        ),
        (skd_terms, {"importance_e5": "e5 <- E5"} | OUTPUT),
        (attention_terms, {"importance_e5": "e5 <- E5"}),
        (
            dkd_terms,
            {f"importance_e{k}": f"e{k} <- E{k}" for k in range(1, 6)}
            | OUTPUT
            | {f"prediction_d{k}": f"d{k} <- D{k}" for k in range(2, 6)},
        ),
        (
            hifd_terms,
            {"importance_e5": "e5 <- E5", "importance_e2": "e2 <- E5", "importance_e4": "e4 <- E5"}
            | OUTPUT
            | {"prediction_d2": "d2 <- OUT", "prediction_d4": "d4 <- OUT"},
        ),
        (
            ifd_terms,
            {"importance_e5": "e5 <- E5", "importance_joined": "e1 e2 e3 e4 <- E5"}
            | OUTPUT
            | {"prediction_joined": "d5 d4 d3 d2 <- OUT"},
        ),
    ],
)
def test_the_papers_five_levels(terms_of, expected):
    assert wiring(terms_of(numbered(5), named(5))) == expected


def test_other_depths():
    assert wiring(hlfd_terms(numbered(3), named(3))) == {
        "importance_unified": "e1 <- E2",
        "importance_e2": "e2 <- E3",
        "prediction_unified": "d3 <- D3",
        "prediction_d2": "d2 <- OUT",
    }
    six = wiring(hlfd_terms(numbered(6), named(6)))
    assert six["importance_unified"] == "e1 <- E2 E3 E4 E5"
    assert six["prediction_unified"] == "d6 <- D6 D5 D4 D3"
    assert len(six) == 10
    assert [name for name in wiring(hifd_terms(numbered(6), named(6))) if name[-1] in "24"] == [
        "importance_e2",
        "importance_e4",
        "prediction_d2",
        "prediction_d4",
    ]


def test_student_and_teacher_of_different_depths():
    mixed = wiring(hlfd_terms(numbered(4), named(6)))
    assert mixed["importance_unified"] == "e1 <- E2 E3 E4 E5"
    assert mixed["importance_e3"] == "e3 <- E6"
    assert mixed["prediction_unified"] == "d4 <- D6 D5 D4 D3"
    assert "importance_e4" not in mixed
    for student, teacher in ((4, 6), (6, 4)):  # levels of one network alone have nobody to learn from
        paired = wiring(dkd_terms(numbered(student), named(teacher)))
        assert [name for name in paired if name != "prediction_output"] == [
            *(f"importance_e{k}" for k in (1, 2, 3, 4)),
            *(f"prediction_d{k}" for k in (4, 3, 2)),
        ]


def test_the_papers_weights():
    terms = {term.name: term for term in hlfd_terms(numbered(5), named(5))}
    assert {name: term.weight for name, term in terms.items()} == {
        name: pytest.approx(0.45 if name.startswith("importance") else 0.05) for name in terms
    }
    assert {term.loss.p for name, term in terms.items() if name.startswith("importance")} == {4.0}
    assert {term.loss.temperature for name, term in terms.items() if name.startswith("prediction")} == {4.0}
    assert [term.weight for term in attention_terms(numbered(5), named(5))] == [1.0]
    for terms_of in (skd_terms, dkd_terms, hifd_terms, ifd_terms):
        weights = {(term.name.split("_")[0], term.weight) for term in terms_of(numbered(5), named(5))}
        assert weights == {("importance", 0.9), ("prediction", 0.1)}


def test_weights_and_constants_can_be_chosen():
    terms = hlfd_terms(
        numbered(4), named(4), temperature=2.0, p=2.0, pixel_weight=10, feature_weight=100, unified=2, individual=3
    )
    assert [term.weight for term in terms] == [200, 300, 300, 20, 30, 30]
    assert {term.loss.p for term in terms[:3]} == {term.loss.temperature for term in terms[3:]} == {2.0}


@pytest.mark.parametrize("terms_of", EVERY)
def test_native_resolution_is_for_all_terms_or_none(terms_of):
    for native in (False, True):
        terms = terms_of(numbered(5), named(5), native_resolution=native)
        assert {term.loss.native_resolution for term in terms} == {native}
        assert wiring(terms) == wiring(terms_of(numbered(5), named(5)))
    assert not any(term.loss.native_resolution for term in terms_of(numbered(5), named(5)))


@pytest.mark.parametrize("terms_of", EVERY)
def test_too_shallow_networks_are_refused(terms_of):
    with pytest.raises(ValueError, match="the student has 2 encoder and 1 decoder levels; at least 3 and 2 are needed"):
        terms_of(numbered(2), named(5))
    shallow = EncoderDecoderTaps(encoder=("a", "b", "c"), decoder=("d",), head="e")
    with pytest.raises(ValueError, match="the teacher has 3 encoder and 1 decoder levels"):
        terms_of(numbered(3), shallow)


# --- values ---------------------------------------------------------------------------------------------------------


def resized(x, size):
    return F.interpolate(x, size=tuple(size), mode=MODES[x.ndim - 2], align_corners=False)


def joined(features):
    return torch.cat([resized(x, min(y.shape[2:] for y in features)) for x in features], dim=1)


def distance(student, teacher):
    maps = [F.normalize(x.pow(4).mean(dim=1).flatten(1), dim=1) for x in (student, teacher)]
    return (maps[0] - maps[1]).square().sum(dim=1).mean()


def kl(student, teacher):
    p, q = ((x / 4).softmax(dim=1) for x in (student, teacher))
    return 16 * (q * (q / p).log()).sum(dim=1).mean()


def tapped(net, x):
    names = taps_of(net)
    with FeatureTaps(net, [*names.encoder, *names.decoder]) as taps:
        out, features = net(x), taps.outputs()
    encoder = [features[name] for name in names.encoder]
    return encoder, [features[name] for name in names.decoder], out


@pytest.mark.parametrize("dims", [2, 3])
def test_the_total_is_the_papers(dims):
    """0.1 PL + 0.9 FL, written out for five levels; each term's adapter as it is."""
    student, teacher, x = Net(dims), Net(dims, width=4), torch.randn(2, 1, *[32] * dims).double()
    terms = hlfd_terms(taps_of(student), taps_of(teacher))
    distiller = Distiller(student, FrozenTeacher(teacher), terms, input_shape=tuple(x.shape))
    for module in (student, distiller):
        module.double()
    with FeatureTaps(student, distiller.student_taps) as taps:
        losses = distiller({"output": student(x), **taps.outputs()}, {"image": x})

    adapted = {term.name: term.adapter for term in terms}
    (s1, s2, s3, s4, _), (z5, *rest), _ = tapped(student, x)
    (_, t2, t3, t4, t5), (y5, y4, y3, _), out = tapped(teacher, x)
    unified = distance(s1, resized(joined([t2, t3, t4]), s1.shape[2:]))
    features = 0.5 * unified + 0.5 * sum(distance(resized(s, t5.shape[2:]), t5) for s in (s2, s3, s4))
    unified = kl(adapted["prediction_unified"](z5), resized(joined([y5, y4, y3]), z5.shape[2:]))
    pixels = 0.5 * unified + 0.5 * sum(
        kl(adapted[f"prediction_d{k}"](resized(z, out.shape[2:])), out) for k, z in zip((4, 3, 2), rest)
    )
    torch.testing.assert_close(distiller.total(losses, epoch=1), 0.1 * pixels + 0.9 * features)


def test_a_student_that_is_its_teacher_has_nothing_to_learn_at_the_ends():
    student = Net()
    distiller = Distiller(
        student,
        FrozenTeacher(copy.deepcopy(student)),
        skd_terms(taps_of(student), taps_of(student)),
        input_shape=(2, 1, 32, 32),
    )
    assert not list(distiller.parameters())  # logits are compared as they are
    x = torch.randn(2, 1, 32, 32)
    with FeatureTaps(student, distiller.student_taps) as taps:
        losses = distiller({"output": student(x), **taps.outputs()}, {"image": x})
    assert all(value.abs() < 1e-6 for value in losses.values())


# --- training -------------------------------------------------------------------------------------------------------


def train(student, teacher, terms):
    dims = student.e[0].weight.ndim - 2
    distiller = Distiller(student, FrozenTeacher(teacher), terms, input_shape=(2, 1, *[16] * dims))
    before = copy.deepcopy(dict(distiller.named_parameters()))
    shape = (2, 1, *[16] * dims)
    batches = [{"image": torch.randn(shape), "label": torch.randint(0, 3, shape)}] * 2
    optimizer = torch.optim.SGD([*student.parameters(), *distiller.parameters()], 0.5)
    handler = DistillationHandler(distiller, task_weight=0.0)
    SupervisedTrainer("cpu", 1, batches, student, optimizer, FocalDiceLoss(), train_handlers=[handler]).run()
    return distiller, before


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("terms_of", EVERY)
@pytest.mark.parametrize("dims", [2, 3])
def test_reaches_the_update(dims, terms_of, native):
    """Task loss 0: the terms alone move the student, and all of their adapters."""
    student, teacher = Net(dims, levels=4), Net(dims, levels=4, width=4)
    first = copy.deepcopy(student.e[0].weight)
    terms = terms_of(taps_of(student), taps_of(teacher), native_resolution=native)
    distiller, before = train(student, teacher, terms)
    assert not torch.equal(student.e[0].weight, first)
    assert all(not torch.equal(p, before[name]) for name, p in distiller.named_parameters())


def test_half_precision_stops_at_the_terms():
    student, teacher, x = Net(levels=4), Net(levels=4, width=4), torch.randn(2, 1, 16, 16)
    terms = hlfd_terms(taps_of(student), taps_of(teacher))
    distiller = Distiller(student, FrozenTeacher(teacher), terms, input_shape=tuple(x.shape))
    with torch.autocast("cpu", torch.bfloat16), FeatureTaps(student, distiller.student_taps) as taps:
        ours = {"output": student(x), **taps.outputs()}
        losses = distiller(ours, {"image": x})
    assert {value.dtype for value in ours.values()} == {torch.bfloat16}
    assert {value.dtype for value in losses.values()} == {torch.float32}
    distiller.total(losses, epoch=1).backward()
    assert all(p.grad.isfinite().all() for p in (*student.parameters(), *distiller.parameters()) if p.grad is not None)


@pytest.mark.parametrize("terms_of", EVERY)
def test_every_adapter_has_a_gradient_in_every_step(terms_of, tmp_path):
    """``DistributedDataParallel`` stops at a parameter without one."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    try:
        student, teacher = Net(levels=4), Net(levels=4, width=4)
        terms = terms_of(taps_of(student), taps_of(teacher))
        distiller = Distiller(student, FrozenTeacher(teacher), terms, input_shape=(2, 1, 16, 16))
        learned = list(distiller.parameters())
        wrapped = nn.parallel.DistributedDataParallel(distiller) if learned else distiller
        for _ in range(2):
            x = torch.randn(2, 1, 16, 16)
            with FeatureTaps(student, distiller.student_taps) as taps:
                losses = wrapped({"output": student(x), **taps.outputs()}, {"image": x})
            distiller.zero_grad()
            distiller.total(losses, epoch=1).backward()
            assert all(p.grad is not None and p.grad.any() for p in distiller.parameters())
    finally:
        torch.distributed.destroy_process_group()


def test_adapters_resume():
    student, teacher = Net(levels=4), Net(levels=4, width=4)

    def make(seed):
        torch.manual_seed(seed)
        terms = hlfd_terms(taps_of(student), taps_of(teacher))
        return Distiller(student, FrozenTeacher(teacher), terms, input_shape=(2, 1, 16, 16))

    first, second = make(1), make(2)
    names = {
        f"terms.prediction_{k}.adapter.projection.{p}" for k in ("unified", "d3", "d2") for p in ("weight", "bias")
    }
    assert set(first.state_dict()) == names
    x = torch.randn(2, 1, 16, 16)
    with FeatureTaps(student, first.student_taps) as taps:
        ours = {"output": student(x), **taps.outputs()}
    expected, before = (distiller(ours, {"image": x})["prediction_unified"] for distiller in (first, second))
    second.load_state_dict(first.state_dict(), strict=True)
    assert before != expected
    assert second(ours, {"image": x})["prediction_unified"] == expected


def test_networks_of_monai():
    """Of other depths, widths and architectures than the teacher."""
    student = DynUNet(
        3, 1, 3, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=[2, 3, 4, 5], deep_supervision=True, deep_supr_num=1
    )
    teacher = BasicUNet(3, 1, 3, features=(2, 2, 2, 2, 2, 2))
    for terms_of in (hlfd_terms, ifd_terms):
        terms = terms_of(encoder_decoder_taps(student), encoder_decoder_taps(teacher))
        distiller = Distiller(student, FrozenTeacher(teacher), terms, input_shape=(2, 1, 32, 32, 32))
        batch = {"image": torch.rand(2, 1, 32, 32, 32)}
        with FeatureTaps(student, distiller.student_taps) as taps:
            losses = distiller({"output": student(batch["image"]), **taps.outputs()}, batch)
        assert list(losses) == [term.name for term in terms]
        assert all(0 < value < float("inf") for value in losses.values())


def test_one_channel_of_logits_is_refused_by_name():
    student, teacher = Net(levels=3), Net(levels=3, classes=1)
    with pytest.raises(ValueError, match=r"term 'prediction_d2' does not fit.*1 channel is constant.*out_channels=2"):
        Distiller(
            student,
            FrozenTeacher(teacher),
            hlfd_terms(taps_of(student), taps_of(teacher)),
            input_shape=(2, 1, 16, 16),
        )


def test_examples_run():
    result = doctest.testmod(hlfd)
    assert result.failed == 0
    assert result.attempted > 0
