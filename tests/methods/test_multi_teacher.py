from __future__ import annotations

import copy
import doctest

import pytest
import torch
import torch.nn.functional as F
from ignite.engine import Events
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.networks.nets import DenseNet, DenseNet121, EfficientNet, EfficientNetBN, ResNet, resnet50
from torch import nn

from monai_kd import DistillationHandler, Distiller, FeatureTaps, FrozenTeacher
from monai_kd.losses import FusionTaskLoss, MultiTeacherAttentionFusion, NormalizedHintLoss, SoftTargetLoss
from monai_kd.methods import (
    attention_fusion_terms,
    feature_terms,
    mean_teachers_terms,
    multi_teacher,
    response_terms,
)
from monai_kd.networks import TinyEndoNet

pytestmark = pytest.mark.filterwarnings("ignore")

CLASSES, SIZE = 3, 16
TAPS = {"resnet": "layer4", "densenet": "class_layers.relu", "efficientnet": "_swish[1]"}
CHANNELS = {"resnet": 16, "densenet": 10, "efficientnet": 1280}
MAPS = [f"{name}:{tap}" for name, tap in TAPS.items()]
ANSWERS = [f"{name}:output" for name in TAPS]
both_queries = pytest.mark.parametrize("query", ["teachers", "student"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def teachers_for(dims=2, names=tuple(TAPS)):
    """Three families, with maps of other channels and sizes."""
    blocks = ["r1_k3_s11_e1_i32_o8_se0.25", "r1_k3_s22_e2_i8_o8_se0.25"]
    made = {
        "resnet": lambda: ResNet(
            "basic", [1, 1, 1, 1], [4, 4, 8, 16], spatial_dims=dims, n_input_channels=1, num_classes=CLASSES
        ),
        "densenet": lambda: DenseNet(dims, 1, CLASSES, init_features=8, growth_rate=2, block_config=(2, 2)),
        "efficientnet": lambda: EfficientNet(
            blocks, dims, 1, CLASSES, width_coefficient=1.0, depth_coefficient=1.0, dropout_rate=0.0, image_size=SIZE
        ),
    }
    return {name: FrozenTeacher(made[name]()) for name in names}


def student_for(dims=2):
    return TinyEndoNet(dims, 1, CLASSES, channels=(4, 6, 8), strides=(2, 2, 2))


def fusion_for(dims=2, names=tuple(TAPS), **kwargs):
    channels = [CHANNELS[name] for name in names]
    return MultiTeacherAttentionFusion(channels, CLASSES, dimension=8, num_heads=2, positions=[2] * dims, **kwargs)


def batches(count=3, size=6, dims=2):
    generator = torch.Generator().manual_seed(1)
    patterns = torch.randn(CLASSES, 1, *[SIZE] * dims, generator=generator)
    label = torch.arange(size) % CLASSES
    noise = 0.3 * torch.randn(count, size, 1, *[SIZE] * dims, generator=generator)
    return [{"image": patterns[label] + one, "label": label} for one in noise]


def distiller_for(student, terms, teachers=None, dims=2):
    return Distiller(student, teachers or teachers_for(dims), terms, input_shape=(2, 1, *[SIZE] * dims))


def trainer_for(student, distiller, loader=None, epochs=1, task_weight=1.0, handlers=(), **kwargs):
    parameters = [*student.parameters(), *distiller.parameters()]
    return SupervisedTrainer(
        "cpu",
        epochs,
        batches() if loader is None else loader,
        student,
        torch.optim.Adam(parameters, 0.01),
        nn.CrossEntropyLoss(),
        train_handlers=[DistillationHandler(distiller, task_weight=task_weight), *handlers],
        **kwargs,
    )


def losses_of(student, distiller, batch):
    with FeatureTaps(student, distiller.student_taps) as taps:
        prediction = student(batch["image"])
        return distiller({"output": prediction, **taps.outputs()}, batch)


def gradients(value, network):
    found = torch.autograd.grad(value, [*network.parameters()], retain_graph=True, allow_unused=True)
    return {name for (name, _), g in zip(network.named_parameters(), found) if g is not None and g.any()}


def copies(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_the_proposed_teachers_have_the_maps_of_the_default_fusion():
    with torch.device("meta"):
        networks = [
            resnet50(n_input_channels=3, spatial_dims=2, num_classes=8, bias_downsample=False, conv1_t_stride=2)
        ]
        networks += [DenseNet121(2, 3, 8)]
    networks += [EfficientNetBN("efficientnet-b0", pretrained=False, num_classes=8).to("meta")]
    shapes = []
    for network, tap in zip(networks, TAPS.values()):
        layer, _, again = tap.partition("[")
        with torch.no_grad(), FeatureTaps(network.eval(), [layer]) as taps:
            network(torch.empty(1, 3, 224, 224, device="meta"))
            output = taps.outputs()[layer]
        shapes.append((output[1] if again else output).shape)
    assert shapes == [(1, 2048, 7, 7), (1, 1024, 7, 7), (1, 1280, 7, 7)]
    assert [sum(p.numel() for p in n.parameters()) for n in networks] == [23_524_424, 6_962_056, 4_017_796]


# --- the terms --------------------------------------------------------------------------------------------------------


def test_weights_and_taps():
    (soft,) = response_terms("resnet:output", alpha=0.3, temperature=2.0)
    assert (soft.name, soft.teacher_taps, soft.weight, soft.loss.temperature) == (
        "soft_target", ["resnet:output"], 0.3, 2.0
    )  # fmt: skip
    (mean,) = mean_teachers_terms(ANSWERS, [1, 1, 2], alpha=0.7, student="classifier")
    assert (mean.name, mean.student_taps, mean.teacher_taps, mean.weight) == (
        "mean_soft_target", ["classifier"], ANSWERS, 0.7
    )  # fmt: skip
    assert mean.loss.weights == [0.25, 0.25, 0.5]
    assert [(t.name, t.teacher_taps, t.weight) for t in feature_terms("features", MAPS, 3.0)] == [
        ("feature_resnet_layer4", ["resnet:layer4"], 1.0),
        ("feature_densenet_class_layers_relu", ["densenet:class_layers.relu"], 1.0),
        ("feature_efficientnet__swish_1", ["efficientnet:_swish[1]"], 1.0),
    ]
    task, hint, response = attention_fusion_terms(
        fusion_for(), "features", MAPS, feature_weight=2.0, response_weight=0.1, fusion_weight=0.5, temperature=3.0
    )
    assert [(t.name, t.weight, t.teacher_taps) for t in (task, hint, response)] == [
        ("fusion_task", 0.5, MAPS),
        ("fusion_hint", 2.0, MAPS),
        ("fusion_soft_target", 0.1, MAPS),
    ]
    assert [t.needs_label for t in (task, hint, response)] == [True, False, False]
    assert response.student_taps == ["features", "output"]
    assert response.loss.soft_target.temperature == 3.0


@pytest.mark.parametrize("kept", [["task"], ["hint"], ["soft_target"], ["hint", "soft_target"]])
def test_a_weight_of_0_leaves_its_term_out(kept):
    arguments = {"task": "fusion_weight", "hint": "feature_weight", "soft_target": "response_weight"}
    fusion = fusion_for()
    nn.init.ones_(fusion.score.weight)  # as after a training
    weights = {argument: float(name in kept) for name, argument in arguments.items()}
    terms = attention_fusion_terms(fusion, "features", MAPS, **weights)
    assert [term.name for term in terms] == [f"fusion_{name}" for name in kept]
    assert {p.requires_grad for p in fusion.parameters()} == {"task" in kept}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: response_terms(alpha=0.0), "alpha is a share, above 0 and at most 1, got 0.0"),
        (lambda: mean_teachers_terms(ANSWERS, alpha=1.5), "alpha is a share"),
        (lambda: mean_teachers_terms(ANSWERS, [1, 2]), r"each teacher needs a weight, got \[1, 2\] for \['resnet"),
        (lambda: mean_teachers_terms([]), r"one of them at least, got \[\]"),
        (lambda: mean_teachers_terms("resnet:output"), "a list of taps.*got 'resnet:output'"),
        (lambda: response_terms(temperature=0.0), "temperature must be positive"),
        (lambda: feature_terms("features", []), r"one of them at least, got \[\]"),
        (lambda: feature_terms("features", "layer4"), "a list of taps.*got 'layer4'"),
        (lambda: feature_terms("features", MAPS, -1.0), "not negative"),
        (lambda: attention_fusion_terms(fusion_for(), "features", "layer4"), "a list of taps.*got 'layer4'"),
        (lambda: attention_fusion_terms(fusion_for(), "features", MAPS[:2]), r"made for 3 teachers with \(16, 10"),
        (
            lambda: attention_fusion_terms(fusion_for(), "features", MAPS, feature_weight=0, fusion_weight=0),
            "nothing is left of the fusion",
        ),
        (lambda: attention_fusion_terms(fusion_for(), "features", MAPS, fusion_weight=0), "was never trained; load"),
    ],
)
def test_arguments_are_checked(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_does_not_fit_is_found_before_training():
    student = student_for()
    with pytest.raises(ValueError, match=r"'fusion_hint' does not fit.*channels and 2 spatial axes, in this order"):
        distiller_for(student, attention_fusion_terms(fusion_for(), "features", MAPS[::-1]))
    finer = MultiTeacherAttentionFusion([16, 10, 1280], CLASSES, 8, 2, positions=(4, 4))
    with pytest.raises(ValueError, match=r"'fusion_hint' does not fit.*\('B', 8, 4, 4\), got \(2, 8, 2, 2\)"):
        distiller_for(student, attention_fusion_terms(finer, "features", MAPS))


# --- values and gradients ---------------------------------------------------------------------------------------------


def test_values_of_a_batch():
    """Answers and features of one teacher, and of all, from the networks' own outputs."""
    student, teachers, (batch,) = student_for().eval(), teachers_for(), batches(1)
    terms = [*response_terms("densenet:output"), *mean_teachers_terms(ANSWERS), *feature_terms("features", MAPS[:1])]
    distiller = distiller_for(student, terms, teachers)
    losses = losses_of(student, distiller, batch)
    p = student(batch["image"])
    answers = {name: teacher.network(batch["image"]) for name, teacher in teachers.items()}
    torch.testing.assert_close(losses["soft_target"], SoftTargetLoss(4.0)(p, answers["densenet"]))
    q = sum((z / 4).softmax(1) for z in answers.values()) / 3
    expected = 16 * F.kl_div((p / 4).log_softmax(1), q, reduction="batchmean")
    torch.testing.assert_close(losses["mean_soft_target"], expected, rtol=1e-3, atol=1e-7)
    adapter = distiller.terms["feature_resnet_layer4"].adapter
    with FeatureTaps(teachers["resnet"].network, ["layer4"]) as taps:
        teachers["resnet"].network(batch["image"])
        theirs = taps.outputs()["layer4"]
    ours = adapter(student.features(batch["image"]))
    assert ours.shape == theirs.shape
    torch.testing.assert_close(losses["feature_resnet_layer4"], NormalizedHintLoss()(ours, theirs))


def test_one_teacher_without_attention_gives_its_features():
    """The fusion of one teacher, an identity for its projection and no attention: the feature-based term without an
    adapter, on features centred over the channels (layer normalisation does nothing else to a direction)."""
    teacher = nn.Sequential(nn.Conv2d(1, 8, 8, stride=8), nn.Flatten(2))
    teacher[0].weight.data = 30 * (teacher[0].weight.data - teacher[0].weight.data.mean(0))
    nn.init.zeros_(teacher[0].bias)
    fusion = MultiTeacherAttentionFusion([8], CLASSES, 8, 2, positions=(2, 2))
    fusion.projections[0].weight.data = torch.eye(8)
    for parameter in (*fusion.attention.out_proj.parameters(), fusion.projections[0].bias,
                      fusion.teacher_embedding, fusion.position_embedding):  # fmt: skip
        nn.init.zeros_(parameter)
    (plain,) = feature_terms("features", ["0"])
    plain.adapter = None
    terms = [*attention_fusion_terms(fusion, "features", ["0"]), plain]
    student, (batch,) = student_for(), batches(1)
    losses = losses_of(student, distiller_for(student, terms, FrozenTeacher(teacher)), batch)
    torch.testing.assert_close(losses["fusion_hint"], losses["feature_0"], rtol=1e-4, atol=1e-5)


@both_queries
def test_each_side_learns_from_its_own_terms(query):
    student, (batch,), fusion = student_for(), batches(1), fusion_for(query=query)
    terms = attention_fusion_terms(fusion, "features", MAPS, response_weight=1.0)
    distiller = distiller_for(student, terms)
    losses = losses_of(student, distiller, batch)
    everything = {name for name, _ in student.named_parameters()}
    heads = {"classifier.weight", "classifier.bias"}
    assert gradients(losses["fusion_task"], student) == set()
    assert gradients(losses["fusion_hint"], student) == everything - heads
    assert gradients(losses["fusion_soft_target"], student) == everything
    assert gradients(losses["fusion_task"], fusion) == {name for name, _ in fusion.named_parameters()}
    for name in ("fusion_hint", "fusion_soft_target"):
        assert gradients(losses[name], fusion) == set()
    for teacher in distiller.teachers.values():
        assert not any(p.requires_grad for p in teacher.network.parameters())


def test_the_terms_share_one_fusion():
    fusion = fusion_for()
    distiller = distiller_for(student_for(), attention_fusion_terms(fusion, "features", MAPS, response_weight=1.0))
    assert {id(p) for p in distiller.parameters()} == {id(p) for p in fusion.parameters()}
    assert len(list(distiller.parameters())) == len(list(fusion.parameters()))


@both_queries
def test_unlabelled_items_count_for_the_student_alone(query):
    student, (batch,), fusion = student_for().eval(), batches(1), fusion_for(query=query)
    distiller = distiller_for(student, attention_fusion_terms(fusion, "features", MAPS))
    some = losses_of(student, distiller, {**batch, "has_label": [True, True, False, True, False, False]})
    kept = {key: value[[0, 1, 3]] for key, value in batch.items()}
    torch.testing.assert_close(some["fusion_task"], losses_of(student, distiller, kept)["fusion_task"])
    torch.testing.assert_close(some["fusion_hint"], losses_of(student, distiller, batch)["fusion_hint"])
    none = losses_of(student, distiller, {**batch, "has_label": [False] * 6})
    assert none["fusion_task"] == 0
    torch.testing.assert_close(none["fusion_hint"], some["fusion_hint"])


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amp", [False, True], ids=["plain", "amp"])
def test_trains_with_monais_engines(amp):
    student, teachers, fusion = student_for(), teachers_for(), fusion_for()
    answers = {name: copies(teacher.network) for name, teacher in teachers.items()}
    before, keys = copies(fusion), list(student.state_dict())
    terms = [
        *attention_fusion_terms(fusion, "features", MAPS, response_weight=0.5),
        *mean_teachers_terms(ANSWERS),
        *feature_terms("features", MAPS[:2]),
    ]
    distiller, values = distiller_for(student, terms, teachers), []
    trainer = trainer_for(student, distiller, epochs=8, amp=amp, decollate=False)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda engine: values.append({name: float(engine.state.output[name]) for name in distiller.terms}),
    )
    trainer.run()
    for name in ("fusion_task", "fusion_hint"):
        assert sum(v[name] for v in values[-3:]) < 0.8 * sum(v[name] for v in values[:3])
    assert [name for name, value in fusion.state_dict().items() if torch.equal(value, before[name])] == []
    for name, teacher in teachers.items():
        assert not teacher.network.training
        assert all(torch.equal(value, answers[name][key]) for key, value in teacher.network.state_dict().items())
    assert list(student.state_dict()) == keys  # nothing of the distillation is left in the student
    assert sum(p.numel() for p in student.parameters()) == sum(p.numel() for p in student_for().parameters())
    student_for().load_state_dict(student.state_dict())
    evaluator = SupervisedEvaluator("cpu", batches(1), student)
    evaluator.run()
    assert evaluator.state.output[0]["pred"].shape == (CLASSES,)


@both_queries
def test_the_terms_alone_move_the_student(query):
    student = student_for()
    before = copies(student)
    terms = attention_fusion_terms(fusion_for(query=query), "features", MAPS, response_weight=1.0)
    trainer_for(student, distiller_for(student, terms), epochs=2, task_weight=0.0).run()
    assert [name for name, p in student.named_parameters() if torch.equal(p, before[name])] == []


def test_volumes():
    names = ("resnet", "densenet")
    student, fusion = student_for(3), fusion_for(3, names)
    terms = attention_fusion_terms(fusion, "features", MAPS[:2], response_weight=1.0)
    terms += mean_teachers_terms(ANSWERS[:2])
    distiller = distiller_for(student, terms, teachers_for(3, names), dims=3)
    trainer_for(student, distiller, batches(1, 3, dims=3)).run()


def test_a_batch_of_one():
    """Whatever its place in a batch, an image is worth the same; batch statistics apart."""
    student, (batch,) = student_for().eval(), batches(1)
    distiller = distiller_for(student, attention_fusion_terms(fusion_for(), "features", MAPS, response_weight=1.0))
    whole = losses_of(student, distiller, batch)
    items = [losses_of(student, distiller, {k: v[i : i + 1] for k, v in batch.items()}) for i in range(6)]
    for name, value in whole.items():
        torch.testing.assert_close(torch.stack([item[name] for item in items]).mean(), value, rtol=1e-4, atol=1e-5)


def test_a_fusion_trained_before_stays_as_it_is():
    """First the fusion alone, then the student from targets that do not change."""
    fusion, first = fusion_for(), student_for()
    trainer_for(first, distiller_for(first, attention_fusion_terms(fusion, "features", MAPS, feature_weight=0)),
                task_weight=0.0, epochs=4).run()  # fmt: skip
    trained = copies(fusion)
    student = student_for()
    distiller = distiller_for(student, attention_fusion_terms(copy.deepcopy(fusion), "features", MAPS, fusion_weight=0))
    trainer_for(student, distiller, epochs=2).run()
    found = distiller.terms["fusion_hint"].loss.fusion.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in found.items())
    assert isinstance(attention_fusion_terms(fusion_for(), "features", MAPS)[0].loss, FusionTaskLoss)


def test_examples_run():
    result = doctest.testmod(multi_teacher)
    assert result.failed == 0
    assert result.attempted > 0
