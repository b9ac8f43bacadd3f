"""Laws of both contrastive losses: as they are by default, sampled, and by a given table."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from monai.data import MetaTensor

from monai_kd import testing
from monai_kd.losses import ClassContrastiveLoss, ContrastMemory, CRDLoss

LABELS = torch.tensor([3, 7, 3, -1, 7, 7, 3, 9, -1, 7, 3, 9])
INDEX = torch.tensor([0, 9, 7, 2])
SHAPES = {"classification": (), "2d": (5, 6), "3d": (3, 4, 5)}
FORMS = ["all rows", "sampled", "table"]

every_form = pytest.mark.parametrize("form", FORMS)
every_loss = pytest.mark.parametrize("kind", ["class", "crd", "crd with label"])
every_shape = pytest.mark.parametrize("spatial", SHAPES.values(), ids=SHAPES.keys())


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make(kind, form="all rows", **kwargs):
    memory = ContrastMemory(LABELS, 3, 5, dimension=8)
    kwargs = {"negatives": 6, "sampled": form == "sampled", **kwargs}
    return ClassContrastiveLoss(memory, 3, **kwargs) if kind == "class" else CRDLoss(memory, **kwargs)


def arguments(loss, kind, form="all rows", index=INDEX):
    """What a batch holds beside the features."""
    batch = {"index": index}
    if kind != "crd":
        batch["label"] = LABELS[index]
    if form == "table":
        batch["table"] = torch.randint(len(LABELS), (len(index), loss.positives + loss.negatives))
    return batch


def features(spatial=(), dtype=torch.float32, batch=4):
    return torch.randn(batch, 3, *spatial, dtype=dtype), torch.randn(batch, 5, *spatial, dtype=dtype)


def ready(loss, batch):
    """The loss with its Z, in eval mode."""
    loss(*(x.to(loss.memory.student_rows.dtype) for x in features()), **batch)
    return loss.eval()


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


# --- gradients --------------------------------------------------------------------------------------------------------


@every_form
@every_loss
def test_gradient(kind, form):
    loss = make(kind, form).double()
    batch = arguments(loss, kind, form)
    ready(loss, batch)
    student, teacher = features((2,), torch.float64)
    parameters = list(loss.parameters())

    def value(student, *parameters):
        torch.manual_seed(0)  # the same draws
        return loss(student, teacher, **batch)

    assert torch.autograd.gradcheck(value, (student.requires_grad_(), *parameters))


@every_form
@every_loss
def test_no_gradient_to_teacher_and_banks(kind, form):
    loss = make(kind, form)
    student, teacher = (x.requires_grad_() for x in features((4,)))
    loss(student, teacher, **arguments(loss, kind, form)).backward()
    assert student.grad.abs().sum(dim=(1, 2)).gt(0).all()
    assert teacher.grad is None
    assert all(parameter.grad.any() for parameter in loss.parameters())
    assert not any(buffer.requires_grad for buffer in loss.buffers())


@every_loss
def test_the_heads_learn_apart(kind):
    """The student's head from the loss of its own anchors alone, the teacher's from the other direction alone."""
    loss = make(kind)
    batch = arguments(loss, kind)
    inputs = features()
    ready(loss, batch)
    loss(*inputs, **batch).backward()
    expected = [parameter.grad.clone() for parameter in loss.parameters()]
    memory = loss.memory
    embeddings = memory.embed(*inputs)
    compared = loss._all_rows(INDEX, batch.get("label"))
    loss.zero_grad()
    for which, rows in enumerate([memory.teacher_rows, memory.student_rows]):
        _, gradient = loss._direction(which, embeddings[which].detach(), rows, compared)
        embeddings[which].backward(gradient)
    actual = [parameter.grad for parameter in loss.parameters()]
    torch.testing.assert_close(actual, expected)


@every_loss
def test_follows_a_factor(kind):
    """What a term's weight and a gradient scaler need."""
    loss = make(kind)
    batch = arguments(loss, kind)
    ready(loss, batch)
    gradients = []
    for factor in (1.0, -8.0):
        student, teacher = torch.ones(4, 3, requires_grad=True), torch.ones(4, 5)
        (factor * loss(student, teacher, **batch)).backward()
        gradients.append(student.grad / factor)
    torch.testing.assert_close(*gradients)


# --- the laws of every loss -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@every_shape
@pytest.mark.parametrize("form", ["all rows", "table"])
@every_loss
def test_laws(kind, form, spatial, autocast):
    """Gradients, half precision, extremes, single images, mean over the batch."""
    loss = make(kind, form)
    batch = arguments(loss, kind, form)
    ready(loss, batch)
    with torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext():
        testing.check_loss(loss, *features(spatial), **batch)


@every_form
@every_loss
def test_half_precision_writes_the_same_banks(kind, form):
    student, teacher = (x.bfloat16() for x in features((4, 4)))
    states, values = [], []
    for half in (False, True):
        torch.manual_seed(0)
        loss = make(kind, form)
        batch = arguments(loss, kind, form)
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            values.append(loss(*((student, teacher) if half else (student.float(), teacher.float())), **batch))
        states.append(state(loss))
    assert values[1].dtype == torch.float32
    torch.testing.assert_close(*values, rtol=0, atol=0)
    torch.testing.assert_close(*states, rtol=0, atol=0)


@every_form
@every_loss
def test_permuted_anchors(kind, form):
    order = torch.tensor([2, 0, 3, 1])
    loss = make(kind, form).double()
    batch = arguments(loss, kind, form)
    student, teacher = features(dtype=torch.float64)
    values, states = [], []
    for chosen in (torch.arange(4), order):
        one = copy.deepcopy(loss)
        values.append(one(student[chosen], teacher[chosen], **{key: value[chosen] for key, value in batch.items()}))
        states.append(state(one))
    if form != "sampled":
        torch.testing.assert_close(*values)
        torch.testing.assert_close(*states)
    torch.testing.assert_close(states[0]["memory.student_rows"], states[1]["memory.student_rows"])


@every_shape
@every_loss
def test_features_with_axes_are_their_mean(kind, spatial):
    student, teacher = features(spatial)
    pooled = [x.flatten(2).mean(dim=2) if spatial else x for x in (student, teacher)]
    loss = make(kind)
    torch.testing.assert_close(
        copy.deepcopy(loss)(student, teacher, **arguments(loss, kind)), loss(*pooled, **arguments(loss, kind))
    )


@every_loss
def test_monai_tensors(kind):
    loss = make(kind)
    batch = arguments(loss, kind)
    inputs = features((4, 4))
    value = copy.deepcopy(loss)(*map(MetaTensor, inputs), **{key: MetaTensor(x) for key, x in batch.items()})
    assert type(value) is torch.Tensor
    torch.testing.assert_close(value, loss(*inputs, **batch))


@every_loss
def test_a_teacher_run_in_inference_mode(kind):
    loss = make(kind)
    student, teacher = features()
    with torch.inference_mode():
        teacher = teacher.clone()
    loss(student.requires_grad_(), teacher, **arguments(loss, kind)).backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("form", ["all rows", "sampled"])
@every_loss
def test_never_waits_for_the_device(kind, form, monkeypatch):
    """A tensor without values cannot be read on the host."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())  # knows no meta device
    loss = make(kind, form).to("meta")
    student, teacher = (x.to("meta") for x in features((4,)))
    batch = {key: value.to("meta") for key, value in arguments(loss, kind).items()}
    loss(student.requires_grad_(), teacher, **batch).backward()
    assert student.grad.shape == student.shape


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("temperature", [0.07, 0.003])
@pytest.mark.parametrize("sign", [1, -1])
@every_form
@every_loss
def test_finite_at_the_ends_of_the_cosine(kind, form, sign, temperature, dtype):
    """The exponential of 1 / 0.07 is beyond float16, of 1 / 0.003 beyond float32."""
    memory = ContrastMemory(LABELS, 4, dimension=4)
    loss = make(kind, form, temperature=temperature)
    loss.memory = memory
    with torch.no_grad():
        for head in (memory.student_head, memory.teacher_head):
            head.weight.copy_(torch.eye(4))
            head.bias.zero_()
        for rows in (memory.student_rows, memory.teacher_rows):
            rows.copy_(torch.eye(4)[torch.arange(len(LABELS)) % 4])
    student = sign * torch.eye(4).to(dtype)
    for _ in range(2):  # with Z of this batch, and with that of the batch before
        leaf = student.clone().requires_grad_()
        value = loss(leaf, student, **arguments(loss, kind, form))
        value.backward()
        assert value.isfinite()
        assert leaf.grad.isfinite().all()
    assert loss.log_partition.isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("first", [True, False], ids=["first batch", "second batch"])
@every_form
@every_loss
def test_features_that_are_not_finite_show_in_the_loss_alone(kind, form, first, bad):
    """Which stops the run; what is remembered stays usable."""
    loss = make(kind, form)
    batch = arguments(loss, kind, form)
    if not first:
        loss(*features(), **batch)
    before = state(loss)
    for side in range(2):
        inputs = features((2,))
        inputs[side][1, 1] = bad
        assert loss(*inputs, **batch).isnan()
    rows = (loss.memory.student_rows, loss.memory.teacher_rows)
    assert all(x.isfinite().all() for x in rows)
    if not first:
        assert loss.log_partition.equal(before["log_partition"])
    assert loss(*features(), **batch).isfinite()
    assert loss.log_partition.isfinite().all()
    assert all(x.isfinite().all() for x in rows)


# --- what is remembered -----------------------------------------------------------------------------------------------


@every_form
@every_loss
def test_evaluation_remembers_nothing(kind, form):
    loss = make(kind, form)
    batch = arguments(loss, kind, form)
    for _ in range(2):  # without Z, and with it
        before = state(loss)
        assert loss.eval()(*features(), **batch).isfinite()
        torch.testing.assert_close(state(loss), before, rtol=0, atol=0, equal_nan=True)
        loss.train()(*features(), **batch)
        assert not before["memory.student_rows"].equal(loss.memory.student_rows)


@every_form
@every_loss
def test_partition_of_the_first_batch_stays(kind, form):
    loss = make(kind, form)
    loss(*features(), **arguments(loss, kind, form))
    partition = loss.log_partition.clone()
    assert partition.isfinite().all()
    loss(*features(), **arguments(loss, kind, form))
    assert loss.log_partition.equal(partition)


@every_loss
def test_a_batch_is_scored_before_it_is_written(kind):
    loss = make(kind)
    inputs, batch = features(), arguments(loss, kind)
    expected = copy.deepcopy(loss).eval()(*inputs, **batch)
    assert loss(*inputs, **batch).equal(expected)
    assert (loss.eval()(*inputs, **batch) - expected).abs() > 0.1


@every_form
@every_loss
def test_resumes_bit_identically(kind, form):
    loss = make(kind, form)
    batch = arguments(loss, kind, form)
    steps = [features() for _ in range(4)]

    def train(loss, steps):
        optimizer = torch.optim.SGD(loss.parameters(), 0.1)
        values = []
        for seed, inputs in enumerate(steps):
            torch.manual_seed(seed + len(steps))
            optimizer.zero_grad()
            value = loss(*inputs, **batch)
            value.backward()
            optimizer.step()
            values.append(value.detach())
        return torch.stack(values)

    train(loss, steps[:2])
    other = make(kind, form)
    other.memory.student_rows.zero_()
    other.load_state_dict(state(loss))
    assert train(loss, steps[2:]).equal(train(other, steps[2:]))
    torch.testing.assert_close(state(other), state(loss), rtol=0, atol=0)


@every_form
@every_loss
def test_other_rows_stay_bitwise(kind, form):
    loss = make(kind, form)
    before = [loss.memory.student_rows.clone(), loss.memory.teacher_rows.clone()]
    loss(*features(), **arguments(loss, kind, form))
    for rows, old in zip((loss.memory.student_rows, loss.memory.teacher_rows), before):
        assert torch.nonzero((rows != old).any(dim=1)).flatten().tolist() == sorted(INDEX.tolist())


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([0, 1, 2, 12], "an index is outside the memory's 12 training images: got .*12.*of the data list you train on"),
        ([0, -1, 2, 3], "an index is outside the memory's 12 training images: got .*-1"),
        ([0.0, 1.0, 2.0, 3.0], r"expected one integer index an image, 4 in all; got \(4,\) of torch.float32"),
        ([0, 1, 2], r"expected one integer index an image, 4 in all; got \(3,\) of torch.int64"),
    ],
)
@every_form
@every_loss
def test_index_errors(kind, form, index, message):
    loss = make(kind, form)
    before = state(loss)
    batch = {**arguments(loss, kind, form), "index": torch.tensor(index)}
    with pytest.raises(ValueError, match=message):
        loss(*features(), **batch)
    torch.testing.assert_close(state(loss), before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("label", [torch.zeros(4), torch.zeros(3, dtype=torch.long)])
@pytest.mark.parametrize("kind", ["class", "crd with label"])
def test_label_errors(kind, label):
    loss = make(kind)
    with pytest.raises(ValueError, match=r"expected one integer class an image, 4 in all; got \(\d,\) of torch"):
        loss(*features(), label=label, index=INDEX)


@pytest.mark.parametrize("table", [torch.zeros(4, 8, dtype=torch.long), torch.zeros(4, 9)])
def test_table_errors(table):
    loss = make("class")
    with pytest.raises(ValueError, match=r"names 3 positives and 6 negatives .* integers \(4, 9\); got"):
        loss(*features(), label=LABELS[INDEX], index=INDEX, table=table)


def test_features_of_two_batches():
    with pytest.raises(ValueError, match="features of one batch, got 4 of the student, 2 of the teacher"):
        make("crd")(torch.rand(4, 3), torch.rand(2, 5), INDEX)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"negatives": 0}, "positives and negatives must be 1 or more"),
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"noise": "other"}, "noise must be 'uniform' or 'class', got 'other'"),
    ],
)
@pytest.mark.parametrize("kind", ["class", "crd"])
def test_arguments_out_of_range(kind, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(kind, **kwargs)
