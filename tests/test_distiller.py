from __future__ import annotations

import copy

import pytest
import torch
from monai.data import MetaTensor
from monai.networks.nets import DynUNet, SegResNetDS
from torch import nn

from monai_kd.adapters import ChannelAdapter, ProjectionAdapter
from monai_kd.distiller import DistillationTerm, Distiller
from monai_kd.losses import DKDLoss, HintLoss, SoftTargetLoss
from monai_kd.schedules import linear, starts_at
from monai_kd.taps import FeatureTaps
from monai_kd.teachers import EMATeacher, FrozenTeacher

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def network(dims=2, channels=4, classes=3, stride=1):
    return nn.Sequential(
        CONVOLUTIONS[dims](1, channels, 3, padding=1, stride=stride),
        NORMS[dims](channels),
        nn.Dropout(0.3),
        CONVOLUTIONS[dims](channels, classes, 1),
    )


def images(dims=2, batch=2, size=6):
    return torch.randn(batch, 1, *[size] * dims)


def answers(student, distiller, x):
    """What the student gives for ``x``: its output and the taps that the distiller asks for."""
    with FeatureTaps(student, distiller.student_taps) as taps:
        return {"output": student(x), **taps.outputs()}


def soft(name="soft", **kwargs):
    return DistillationTerm(name, SoftTargetLoss(), **kwargs)


def hint(name="hint", student="0", teacher="0", **kwargs):
    return DistillationTerm(name, HintLoss(), student, teacher, **kwargs)


class Record(nn.Module):
    """A loss that keeps what it was given."""

    def forward(self, student, teacher):
        self.student, self.teacher = student, teacher
        first = student[0] if isinstance(student, list) else student
        return first.mean()


# --- terms ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "batch", "message"),
    [
        (DKDLoss(), None, r"term 'term': DKDLoss takes .*label.*\(student, teacher\).*missing.*'label'.*Set batch="),
        (SoftTargetLoss(), {"label": "label"}, r"\(student, teacher, label=\).*unexpected.*'label'"),
        (lambda student: student, None, "too many positional"),
    ],
)
def test_a_loss_with_other_arguments_is_refused(loss, batch, message):
    with pytest.raises(ValueError, match=message):
        DistillationTerm("term", loss, batch=batch)


@pytest.mark.parametrize("name", ["", "two words", "a.b", "1st", "loss", "pred", "image", "label", "task_loss"])
def test_a_name_that_cannot_key_the_output_is_refused(name):
    with pytest.raises(ValueError, match="plain word"):
        soft(name)


@pytest.mark.parametrize("weight", [-1.0, float("nan"), lambda epoch: -epoch])
def test_a_weight_that_makes_no_sense_is_refused(weight):
    with pytest.raises(ValueError, match="not negative"):
        soft(weight=weight)


def test_a_loss_or_adapter_that_cannot_be_called_is_refused():
    with pytest.raises(TypeError, match="term 'a': the loss must be callable, got str"):
        DistillationTerm("a", "SoftTargetLoss")
    with pytest.raises(TypeError, match="term 'a': an adapter is a module or a function of two shapes, got int"):
        DistillationTerm("a", HintLoss(), adapter=3)


@pytest.mark.parametrize("loss", [lambda s, t: (s - t).square(), lambda s, t: None], ids=["unreduced", "None"])
def test_a_loss_that_is_no_scalar_is_refused_by_name(loss):
    student = network()
    with pytest.raises(ValueError, match=r"term 'raw'.*must return a scalar, got"):
        Distiller(student, FrozenTeacher(network()), [DistillationTerm("raw", loss)], input_shape=(2, 1, 6, 6))
    distiller, x = Distiller(student, FrozenTeacher(network()), [DistillationTerm("raw", loss)]), images()
    with pytest.raises(ValueError, match=r"term 'raw'.*must return a scalar, got"):
        distiller(answers(student, distiller, x), {"image": x})


# --- names ----------------------------------------------------------------------------------------------------------


def test_a_misspelt_student_tap_lists_the_closest():
    student = nn.Sequential()
    student.encoder, student.decoder = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 3, 1)
    with pytest.raises(ValueError, match=r"the student .*'encodr' \(closest: encoder"):
        Distiller(student, FrozenTeacher(network()), [hint(student="encodr")])


def test_a_misspelt_teacher_tap_lists_the_closest_and_names_the_teacher():
    large = nn.Sequential()
    large.encoder = nn.Conv2d(1, 4, 1)
    with pytest.raises(ValueError, match=r"the teacher 'big' .*'encodr' \(closest: encoder"):
        Distiller(network(), {"big": FrozenTeacher(large)}, [hint(teacher="encodr")])


def test_an_unknown_teacher_lists_the_known():
    with pytest.raises(ValueError, match=r"no teacher named 'c' for tap 'c:output'; known: \['a', 'b'\]"):
        Distiller(network(), two_teachers(), [soft(teacher="c:output")])


def test_a_tap_that_several_teachers_may_mean_is_refused():
    with pytest.raises(ValueError, match=r"which teacher's 'output'\? Write '<teacher>:output', one of \['a', 'b'\]"):
        Distiller(network(), two_teachers(), [soft()])


def test_equal_term_names_are_refused():
    with pytest.raises(ValueError, match="different names"):
        Distiller(network(), FrozenTeacher(network()), [soft(), soft()])


def test_nothing_to_distil_is_refused():
    with pytest.raises(ValueError, match="at least one DistillationTerm"):
        Distiller(network(), FrozenTeacher(network()), [])


def test_a_bare_network_is_no_teacher():
    with pytest.raises(TypeError, match=r"'teacher' is a Sequential.*FrozenTeacher"):
        Distiller(network(), network(), [soft()])


def test_a_student_that_shares_weights_with_its_teacher_is_refused():
    shared = network()
    with pytest.raises(ValueError, match="the teacher 'teacher' shares weights with the student"):
        Distiller(shared, FrozenTeacher(shared), [soft()])
    part = nn.Sequential(shared[0], nn.Conv2d(4, 3, 1))
    with pytest.raises(ValueError, match="shares weights"):
        Distiller(part, FrozenTeacher(shared), [soft()])
    Distiller(copy.deepcopy(shared), FrozenTeacher(shared), [soft()])


# --- what a term is given -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
def test_terms_are_their_losses_of_what_they_tap(dims):
    student, teacher = network(dims), network(dims)
    distiller, x = Distiller(student, FrozenTeacher(teacher), [soft(), hint(weight=3.0)]), images(dims)
    ours = answers(student, distiller, x)
    losses = distiller(ours, {"image": x})
    assert list(losses) == ["soft", "hint"]
    torch.testing.assert_close(losses["soft"], SoftTargetLoss()(ours["output"], teacher(x)))
    torch.testing.assert_close(losses["hint"], HintLoss()(ours["0"], teacher[0](x)))  # unweighted


def test_two_terms_that_share_a_tap_both_get_it():
    student, teacher = network(), network()
    distiller, x = Distiller(student, FrozenTeacher(teacher), [hint("a"), hint("b"), hint("c", weight=2.0)]), images()
    assert distiller.student_taps == ["0"]
    losses = distiller(answers(student, distiller, x), {"image": x})
    assert losses["a"] > 0
    assert losses["a"] == losses["b"] == losses["c"]


def test_lists_of_taps_arrive_as_lists_in_order():
    student, teacher, loss, x = network(), network(), Record(), images()
    distiller = Distiller(
        student, FrozenTeacher(teacher), [DistillationTerm("many", loss, ["3", "output", "0"], ["0", "output"])]
    )
    ours = answers(student, distiller, x)
    distiller(ours, {"image": x})
    assert [torch.equal(a, b) for a, b in zip(loss.student, [ours["3"], ours["output"], ours["0"]])] == [True] * 3
    assert [tuple(value.shape) for value in loss.teacher] == [(2, 4, 6, 6), (2, 3, 6, 6)]


def test_a_list_of_one_tap_stays_a_list():
    student, loss, x = network(), Record(), images()
    distiller = Distiller(student, FrozenTeacher(network()), [DistillationTerm("one", loss, ["0"], ["0"])])
    distiller(answers(student, distiller, x), {"image": x})
    assert isinstance(loss.student, list)
    assert isinstance(loss.teacher, list)


class Heads(nn.Module):
    """Several outputs, the full resolution first, and a layer that runs twice."""

    def __init__(self, kind=list):
        super().__init__()
        self.kind = kind
        self.body = nn.Conv2d(1, 3, 1)
        self.again = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        x = self.body(x)
        return self.kind([self.again(x), self.again(x[..., ::2, ::2])])


@pytest.mark.parametrize("kind", [list, tuple])
def test_an_index_picks_an_item(kind):
    student, loss, x = Heads(kind), Record(), images()
    taps = ["output[1]", "again[0]", "again[1]", "output"]
    distiller = Distiller(student, FrozenTeacher(network()), [DistillationTerm("pick", loss, taps)])
    ours = answers(student, distiller, x)
    distiller(ours, {"image": x})
    expected = [ours["output"][1], ours["again"][0], ours["again"][1], ours["output"][0]]
    assert all(torch.equal(a, b) for a, b in zip(loss.student, expected, strict=True))


def test_a_layer_with_several_outputs_needs_an_index():
    student = Heads()
    with pytest.raises(ValueError, match=r"student: 'again' returned \[\(2, 3, 6, 6\), \(2, 3, 3, 3\)\].*'again\[i\]'"):
        Distiller(student, FrozenTeacher(network()), [hint(student="again", teacher="3")], input_shape=(2, 1, 6, 6))


@pytest.mark.parametrize("tap", ["output[2]", "again[2]", "body[0]"])
def test_an_index_out_of_range_says_what_there_is(tap):
    with pytest.raises(ValueError, match=r"asks for item \d of .*\(2, 3, 6, 6\)"):
        Distiller(Heads(), FrozenTeacher(network()), [soft(student=tap)], input_shape=(2, 1, 6, 6))


def dynunet(dims):
    return DynUNet(
        dims, 1, 3, [3] * 4, [1, 2, 2, 2], [2] * 3, filters=[2, 4, 4, 4], deep_supervision=True, deep_supr_num=2
    )


def segresnet(dims):
    return SegResNetDS(dims, init_filters=4, out_channels=3, blocks_down=(1, 1, 1), dsdepth=2, norm="instance")


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("make", "kind"), [(dynunet, torch.Tensor), (segresnet, list)])
def test_the_full_resolution_head_of_a_deep_supervision_student_is_distilled(make, kind, dims):
    student, x = make(dims).train(), images(dims, size=16)
    output = student(x)
    assert isinstance(output, kind)
    full = output[:, 0] if kind is torch.Tensor else output[0]
    second = output[:, 1] if kind is torch.Tensor else output[1]
    assert not torch.equal(full, second) if full.shape == second.shape else True

    loss, other = Record(), Record()
    terms = [soft(), DistillationTerm("full", loss), DistillationTerm("second", other, "output[1]")]
    # A teacher with heads of its own answers in eval mode, where both networks return one tensor.
    distiller = Distiller(student, FrozenTeacher(make(dims)), terms, input_shape=tuple(x.shape))
    distiller({"output": output}, {"image": x})
    assert torch.equal(loss.student, full)
    assert torch.equal(other.student, second)
    assert loss.student.shape == loss.teacher.shape == (2, 3, *[16] * dims)


def test_classification_logits_are_no_heads():
    student, loss = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), Record()
    distiller = Distiller(
        student, FrozenTeacher(copy.deepcopy(student)), [DistillationTerm("all", loss)], input_shape=(2, 1, 6, 6)
    )
    distiller({"output": student(images())}, {"image": images()})
    assert loss.student.shape == (2, 3)


def two_teachers():
    return {"a": FrozenTeacher(network()), "b": FrozenTeacher(network(), input_key="other")}


def test_several_teachers_each_answer_for_their_own_images():
    student, teachers = network(), two_teachers()
    loss = Record()
    terms = [soft("from_a", teacher="a:output"), soft("from_b", teacher="b:output")]
    terms.append(DistillationTerm("both", loss, "output", ["b:0", "a:output"]))
    distiller = Distiller(student, teachers, terms, input_shape=(2, 1, 6, 6))
    assert distiller.batch_keys() == {"image", "other"}
    batch = {"image": images(), "other": images()}
    ours = answers(student, distiller, batch["image"])
    losses = distiller(ours, batch)
    a, b = teachers["a"].network, teachers["b"].network
    torch.testing.assert_close(losses["from_a"], SoftTargetLoss()(ours["output"], a(batch["image"])))
    torch.testing.assert_close(losses["from_b"], SoftTargetLoss()(ours["output"], b(batch["other"])))
    torch.testing.assert_close(loss.teacher[0], b[0](batch["other"]))
    torch.testing.assert_close(loss.teacher[1], a(batch["image"]))


def test_a_single_teacher_may_be_named_too():
    distiller = Distiller(network(), {"large": FrozenTeacher(network())}, [soft(teacher="large:output"), soft("b")])
    assert set(distiller({"output": torch.randn(2, 3, 6, 6)}, {"image": images()})) == {"soft", "b"}


def test_a_teacher_runs_once_for_all_terms():
    net, calls = network(), []
    net.register_forward_hook(lambda *_: calls.append(1))
    student = network()
    distiller, x = Distiller(student, FrozenTeacher(net), [soft(), hint(), soft("again")]), images()
    distiller(answers(student, distiller, x), {"image": x})
    assert len(calls) == 1


def test_each_of_several_teachers_runs_once_for_all_terms():
    nets, calls = {name: network() for name in "ab"}, []
    for name, net in nets.items():
        net.register_forward_hook(lambda *_, name=name: calls.append(name))
    teachers = {name: FrozenTeacher(net) for name, net in nets.items()}
    terms = [DistillationTerm(f"{name}_{tap}", nn.MSELoss(), teacher=f"{name}:output") for name in "ab" for tap in "xy"]
    terms.append(
        DistillationTerm("both", lambda student, teacher: sum(teacher).mean(), teacher=["a:output", "b:output"])
    )
    student, x = network(), images()
    distiller = Distiller(student, teachers, terms)
    distiller(answers(student, distiller, x), {"image": x})
    assert calls == ["a", "b"]


def test_meta_tensors_stop_here():
    student, loss = network(), Record()
    distiller = Distiller(student, FrozenTeacher(network()), [DistillationTerm("record", loss)])
    x = MetaTensor(images())
    losses = distiller({"output": student(x)}, {"image": x})
    assert type(loss.student) is type(loss.teacher) is type(losses["record"]) is torch.Tensor


# --- the dry run ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
def test_adapters_are_sized_by_a_dry_run(dims):
    student, teacher = network(dims, channels=2, stride=2), network(dims, channels=8)
    distiller = Distiller(
        student,
        FrozenTeacher(teacher),
        [hint(adapter=ProjectionAdapter)],
        input_shape=(2, 1, *[6] * dims),
    )
    assert distiller.terms["hint"].adapter.projection.weight.shape[:2] == (8, 2)
    x = images(dims, size=8)
    loss = distiller(answers(student, distiller, x), {"image": x})["hint"]
    loss.backward()
    assert distiller.terms["hint"].adapter.projection.weight.grad.any()
    assert student[0].weight.grad.any()


def test_construction_leaves_no_trace_on_student_teacher_and_random_state():
    student, teacher = network(), network(channels=8)
    student.train()
    student[1].eval()  # modes may be mixed
    modes = [module.training for module in student.modules()]
    before = [{k: v.clone() for k, v in net.state_dict().items()} for net in (student, teacher)]
    random_state = torch.get_rng_state()
    Distiller(student, FrozenTeacher(teacher), [hint(adapter=ProjectionAdapter), soft()], input_shape=(2, 1, 6, 6))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in student.modules()] == modes
    for net, state in zip((student, teacher), before):
        assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
        assert not any(module._forward_hooks for module in net.modules())
    assert all(p.requires_grad and p.grad is None for p in student.parameters())


@pytest.mark.parametrize("buffers", ["own", "ema"])
@pytest.mark.parametrize("dims", [2, 3])
def test_construction_leaves_no_trace_on_a_mean_teacher(dims, buffers):
    """It answers in train mode, with dropout, and gathers batch statistics; the dry run's zeros are none."""
    student = network(dims)
    teacher = EMATeacher(student, buffers=buffers)
    teacher.network.eval()
    teacher.network[2].train()  # modes may be mixed
    modes = [module.training for module in teacher.modules()]
    tensors, state = list(teacher.buffers()), {k: v.clone() for k, v in teacher.state_dict().items()}
    random_state = torch.get_rng_state()
    Distiller(student, teacher, [hint(adapter=ProjectionAdapter), soft()], input_shape=(2, 1, *[6] * dims))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in teacher.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in teacher.state_dict().items())
    assert all(a is b for a, b in zip(teacher.buffers(), tensors, strict=True))
    assert not any(module._forward_hooks for module in teacher.network.modules())


def test_a_dry_run_that_fails_leaves_no_trace_on_a_mean_teacher_either():
    teacher = EMATeacher(nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(2, 3, 1)))  # fails behind its statistics
    state = {k: v.clone() for k, v in teacher.state_dict().items()}
    with pytest.raises(ValueError, match="the teacher 'teacher' cannot take 'image'"):
        Distiller(network(), teacher, [soft()], input_shape=(2, 1, 6, 6))
    assert all(torch.equal(value, state[key]) for key, value in teacher.state_dict().items())


def test_images_that_the_student_cannot_take_are_named():
    student = network()
    state = {k: v.clone() for k, v in student.state_dict().items()}
    with pytest.raises(ValueError, match=r"the student cannot take 'image' of shape \(2, 3, 6, 6\): .*channels"):
        Distiller(student, FrozenTeacher(network()), [soft()], input_shape=(2, 3, 6, 6))
    assert all(torch.equal(value, state[key]) for key, value in student.state_dict().items())


def test_construction_restores_counters_that_forward_replaces():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(1, 3, 1)
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x):
            self.count = self.count + 1
            return self.body(x)

    student = Counts()
    count = student.count
    Distiller(student, FrozenTeacher(network()), [soft()], input_shape=(2, 1, 6, 6))
    assert student.count is count
    assert count == 0


def test_the_dry_run_sees_the_student_in_train_mode():
    student = dynunet(2).eval()
    loss = Record()
    Distiller(
        student, FrozenTeacher(network()), [DistillationTerm("second", loss, "output[1]")], input_shape=(2, 1, 16, 16)
    )
    assert loss.student.shape == (2, 3, 16, 16)
    assert not student.training


@pytest.mark.parametrize("term", [soft(), hint(student="output")], ids=["logits", "features"])
def test_shapes_that_do_not_fit_are_reported_at_construction(term):
    with pytest.raises(ValueError, match=f"term '{term.name}' does not fit") as caught:
        Distiller(network(classes=3), FrozenTeacher(network(classes=5, channels=5)), [term], input_shape=(2, 1, 6, 6))
    assert "student ['output'] [(2, 3, 6, 6)]" in str(caught.value)
    assert "(2, 5, 6, 6)]" in str(caught.value)


def test_an_adapter_between_maps_and_vectors_is_reported_by_name():
    vectors = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    with pytest.raises(ValueError, match=r"term 'hint' does not fit.*as many axes"):
        Distiller(
            network(), FrozenTeacher(vectors), [hint(teacher="1", adapter=ProjectionAdapter)], input_shape=(2, 1, 6, 6)
        )


def test_an_adapter_to_be_sized_needs_the_input_shape():
    with pytest.raises(ValueError, match=r"adapters of \['hint'\].*give input_shape"):
        Distiller(network(), FrozenTeacher(network()), [soft(), hint(adapter=ProjectionAdapter)])
    Distiller(network(), FrozenTeacher(network()), [hint(adapter=nn.Conv2d(4, 4, 1))])  # has its size


class Shapes(nn.Module):
    """An adapter that keeps the shapes it was made for, and what it was given; the loss gets the last."""

    def __init__(self, student, teacher):
        super().__init__()
        self.shapes = student, teacher

    def forward(self, student):
        self.given = student
        return student[-1] if isinstance(student, list) else student


@pytest.mark.parametrize("teacher", ["3", ["3", "0"]], ids=["one teacher tap", "several"])
@pytest.mark.parametrize("student", ["3", ["3"], ["0", "3"]], ids=["one student tap", "a list of one", "several"])
def test_adapters_of_lists_of_taps(student, teacher):
    """They are made for lists of shapes, and called with what the loss would have got."""
    loss, net, x = Record(), network(), images()
    term = DistillationTerm("many", loss, student, teacher, adapter=Shapes)
    distiller = Distiller(net, FrozenTeacher(network()), [term], input_shape=(2, 1, 6, 6))
    shapes = {"0": (2, 4, 6, 6), "3": (2, 3, 6, 6)}
    expected = [
        [shapes[tap] for tap in taps] if isinstance(taps, list) else shapes[taps] for taps in (student, teacher)
    ]
    assert term.adapter.shapes == tuple(expected)
    ours = answers(net, distiller, x)
    distiller(ours, {"image": x})
    given = term.adapter.given
    assert isinstance(given, list) == isinstance(student, list)
    assert torch.equal(given[-1] if isinstance(given, list) else given, ours["3"])
    assert torch.equal(loss.student, ours["3"])


def test_an_adapter_of_lists_is_a_parameter_that_resumes():
    def distiller(seed):
        torch.manual_seed(seed)
        term = DistillationTerm("many", Record(), ["0", "3"], ["0", "3"], adapter=ChannelAdapter)
        return Distiller(network(), FrozenTeacher(network(channels=8)), [term], input_shape=(2, 1, 6, 6))

    first, second = distiller(0), distiller(1)
    weight = "terms.many.adapter.projection.weight"
    assert {name: tuple(p.shape) for name, p in first.named_parameters()}[weight] == (8 + 3, 4 + 3, 1, 1)
    assert set(first.state_dict()) == {name for name, _ in first.named_parameters()}
    assert not torch.equal(first.state_dict()[weight], second.state_dict()[weight])
    second.load_state_dict(first.state_dict(), strict=True)
    assert torch.equal(first.state_dict()[weight], second.state_dict()[weight])


def test_a_projection_cannot_be_sized_for_lists():
    with pytest.raises(ValueError, match=r"term 'hint'.*one student and one teacher tap"):
        Distiller(
            network(),
            FrozenTeacher(network()),
            [hint(teacher=["0"], adapter=ProjectionAdapter)],
            input_shape=(2, 1, 6, 6),
        )


@pytest.mark.parametrize("shape", [(1, 1, 6, 6), (2,), ()])
def test_an_input_shape_of_one_item_is_refused(shape):
    with pytest.raises(ValueError, match=r"input_shape is \(B, C, \*spatial\) with B >= 2"):
        Distiller(network(), FrozenTeacher(network()), [soft()], input_shape=shape)


# --- parameters, state, weights -------------------------------------------------------------------------------------


def adapted(student, seed=0):
    torch.manual_seed(seed)
    return Distiller(
        student, FrozenTeacher(network(channels=8)), [soft(), hint(adapter=ProjectionAdapter)], input_shape=(2, 1, 6, 6)
    )


def test_parameters_are_the_adapters_alone():
    distiller = adapted(network())
    assert {name for name, _ in distiller.named_parameters()} == {
        "terms.hint.adapter.projection.weight",
        "terms.hint.adapter.projection.bias",
    }
    assert list(Distiller(network(), FrozenTeacher(network()), [soft(), hint()]).parameters()) == []


def test_the_state_dict_is_what_a_resume_needs():
    student, first = network(), adapted(network(), seed=0)
    second = adapted(network(), seed=1)
    assert set(first.state_dict()) == {name for name, _ in first.named_parameters()}
    second.load_state_dict(first.state_dict(), strict=True)
    feature = student[0](images())
    adapters = [distiller.terms["hint"].adapter for distiller in (first, second)]
    assert torch.equal(adapters[0](feature), adapters[1](feature))


def test_a_mean_teacher_is_in_the_state_but_not_in_the_parameters():
    student = network()
    distiller = Distiller(
        student,
        {"mean": EMATeacher(student), "large": FrozenTeacher(network(channels=8))},
        [soft("from_mean", teacher="mean:output"), soft("from_large", teacher="large:output")],
    )
    assert list(distiller.parameters()) == []
    expected = {f"teachers.mean.network.{name}" for name in student.state_dict()} | {"teachers.mean._extra_state"}
    assert set(distiller.state_dict()) == expected
    Distiller(student, EMATeacher(student), [soft()])  # a copy: it shares no weights with the student


def test_losses_with_weights_of_their_own_are_parameters_and_move():
    class Learnt(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.register_buffer("centre", torch.zeros(3))

        def forward(self, student, teacher):
            return self.scale * (student - teacher).square().mean()

    distiller = Distiller(network(), FrozenTeacher(network()), [DistillationTerm("learnt", Learnt())])
    assert set(distiller.state_dict()) == {"terms.learnt.loss.scale", "terms.learnt.loss.centre"}
    distiller.double()
    assert distiller.terms["learnt"].loss.centre.dtype == torch.float64


def test_weights_follow_the_epoch():
    terms = [soft(weight=0.5), hint("late", weight=starts_at(3, 2.0)), hint("ramp", weight=linear(0, 4, 4))]
    distiller = Distiller(network(), FrozenTeacher(network()), terms)
    assert distiller.weights(1) == {"soft": 0.5, "late": 0.0, "ramp": 0.0}
    assert distiller.weights(3) == {"soft": 0.5, "late": 2.0, "ramp": 2.0}


def test_the_total_is_the_weighted_sum_of_the_epoch():
    distiller = Distiller(network(), FrozenTeacher(network()), [soft(weight=0.5), hint(weight=starts_at(3, 2.0))])
    losses = {"soft": torch.tensor(4.0, requires_grad=True), "hint": torch.tensor(3.0)}
    assert distiller.total(losses, 2).item() == 2.0
    assert distiller.total(losses, 3).item() == 8.0
    distiller.total(losses, 3).backward()
    assert losses["soft"].grad.item() == 0.5


def test_two_distillers_in_one_process_do_not_interfere():
    students, teachers, x = [network(), network()], [network(), network()], images()
    alone = []
    for student, teacher in zip(students, teachers):
        distiller = Distiller(student.eval(), FrozenTeacher(teacher), [soft(), hint()])
        alone.append(distiller(answers(student, distiller, x), {"image": x}))
    both = [
        Distiller(s, FrozenTeacher(t), [soft(weight=i), hint()]) for i, (s, t) in enumerate(zip(students, teachers))
    ]
    ours = [answers(student, distiller, x) for student, distiller in zip(students, both)]
    together = [distiller(answer, {"image": x}) for distiller, answer in zip(both, ours)]
    for first, second in zip(alone, together):
        torch.testing.assert_close(first, second)
    assert alone[0]["soft"] != alone[1]["soft"]
    assert [distiller.weights(1)["soft"] for distiller in both] == [0, 1]


# --- labels ---------------------------------------------------------------------------------------------------------


def labelled(**kwargs):
    return DistillationTerm("dkd", DKDLoss(), batch={"label": "label"}, **kwargs)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_term_with_the_label_sees_labelled_items_only(dims):
    student, teacher, x = network(dims), network(dims), images(dims, batch=4)
    distiller = Distiller(student, FrozenTeacher(teacher), [labelled(), soft()], input_shape=tuple(x.shape))
    output, label = student(x).detach().requires_grad_(), torch.randint(0, 3, (4, 1, *[6] * dims))
    losses = distiller(
        {"output": output}, {"image": x, "label": label, "has_label": torch.tensor([True, False, True, False])}
    )
    kept = [0, 2]
    torch.testing.assert_close(losses["dkd"], DKDLoss()(output[kept], teacher(x)[kept], label=label[kept]))
    torch.testing.assert_close(losses["soft"], SoftTargetLoss()(output, teacher(x)))  # takes all
    losses["dkd"].backward()
    assert output.grad.flatten(1).any(dim=1).tolist() == [True, False, True, False]


def test_without_flags_every_item_is_labelled():
    distiller, x = Distiller(network(), FrozenTeacher(network()), [labelled()]), images()
    output, label = torch.randn(2, 3, 6, 6), torch.randint(0, 3, (2, 1, 6, 6))
    batch = {"image": x, "label": label}
    expected = distiller({"output": output}, batch)["dkd"]
    assert expected > 0
    assert distiller({"output": output}, {**batch, "has_label": [True, True]})["dkd"] == expected


def test_no_labelled_item_gives_a_connected_zero():
    adapter = nn.Conv2d(3, 3, 1)
    distiller, x = Distiller(network(), FrozenTeacher(network()), [labelled(adapter=adapter)]), images()
    output = torch.randn(2, 3, 6, 6, requires_grad=True)
    batch = {"image": x, "label": torch.full((2, 1, 6, 6), -1), "has_label": torch.zeros(2, dtype=torch.bool)}
    loss = distiller({"output": output}, batch)["dkd"]
    assert loss.item() == 0
    loss.backward()
    # Zeros, not None: a process of several that has no label must take part in the exchange of gradients.
    assert not output.grad.any()
    assert adapter.weight.grad is not None
    assert not adapter.weight.grad.any()


def test_keys_of_label_terms_are_not_asked_of_unlabelled_batches():
    term = DistillationTerm("masked", SoftTargetLoss(), batch={"mask": "valid"})
    distiller = Distiller(network(), FrozenTeacher(network(), input_key="other"), [labelled(), term])
    assert distiller.batch_keys() == {"image", "other", "label", "valid"}
    assert distiller.batch_keys(labelled=False) == {"image", "other", "valid"}


def test_further_arguments_come_from_the_batch():
    distiller = Distiller(
        network(), FrozenTeacher(network()), [DistillationTerm("masked", SoftTargetLoss(), batch={"mask": "valid"})]
    )
    x, output = images(), torch.randn(2, 3, 6, 6)
    assert distiller({"output": output}, {"image": x, "valid": torch.zeros(2, 1, 6, 6)})["masked"] == 0
    assert distiller({"output": output}, {"image": x, "valid": torch.ones(2, 1, 6, 6)})["masked"] > 0


# --- numbers --------------------------------------------------------------------------------------------------------


def test_terms_compute_in_float32_under_autocast():
    student, teacher, x = network().eval(), network(), images()
    seen = []

    def loss(student, teacher):  # of the user's own, without any care
        value = student.flatten(1) @ teacher.flatten(1).T
        seen.append((student.dtype, teacher.dtype, value.dtype))
        return value.mean()

    adapter = nn.Conv2d(4, 4, 1)
    terms = [DistillationTerm("own", loss), hint(adapter=adapter), soft()]
    distiller = Distiller(student, FrozenTeacher(teacher), terms)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = answers(student, distiller, x)
        assert ours["output"].dtype == torch.bfloat16
        losses = distiller(ours, {"image": x})
    assert seen == [(torch.float32,) * 3]
    assert {value.dtype for value in losses.values()} == {torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theirs = teacher(x)
    torch.testing.assert_close(losses["soft"], SoftTargetLoss()(ours["output"].float(), theirs.float()))


def test_double_precision_stays():
    student, teacher = network().double(), network().double()
    distiller, x = Distiller(student, FrozenTeacher(teacher), [soft()]), images().double()
    assert distiller({"output": student(x)}, {"image": x})["soft"].dtype == torch.float64


def test_a_teacher_with_images_of_its_own_is_sized_by_them():
    student, network = nn.Conv2d(1, 4, 1), nn.Conv2d(2, 6, 1)
    teacher = FrozenTeacher(network, input_key="pet")
    hint = [DistillationTerm("hint", HintLoss(), adapter=ProjectionAdapter)]
    with pytest.raises(ValueError, match=r"the teacher 'teacher' cannot take 'pet' of shape \(2, 1, 8, 8\)"):
        Distiller(student, teacher, hint, input_shape=(2, 1, 8, 8))
    hint = [DistillationTerm("hint", HintLoss(), adapter=ProjectionAdapter)]
    distiller = Distiller(student, teacher, hint, input_shape={"image": (2, 1, 8, 8), "pet": (2, 2, 16, 16)})
    images = torch.rand(2, 1, 8, 8)
    losses = distiller({"output": student(images)}, {"image": images, "pet": torch.rand(2, 2, 16, 16)})
    assert losses["hint"] > 0
    with pytest.raises(ValueError, match="'image' among them"):
        Distiller(student, teacher, hint, input_shape={"pet": (2, 2, 16, 16)})


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_term_without_taps_is_refused(side):
    with pytest.raises(ValueError, match="needs a tap of each side"):
        DistillationTerm("hint", HintLoss(), **{side: []})


@pytest.mark.parametrize("name", ["keys", "type"])
def test_a_name_that_torch_needs_is_refused(name):
    with pytest.raises(ValueError, match="plain word"):
        DistillationTerm(name, HintLoss())
