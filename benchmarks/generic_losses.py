"""Generic distillation losses, forward and backward, against their usual forms on the same inputs.

"torchdistill": that library's loss, where it has one of these; its hint is the mean squared error of torch, which is
the usual one, and it has neither channel-wise distillation nor DKD. "usual": the papers' equations in the ordinary
operations of torch, with the averages that ours take, so that both give the same number.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.comparing import Bar, Case, Found, memory_ratio, ratio, values_agree
from benchmarks.torchdistill_losses import torchdistill_losses
from monai_kd.losses import (
    AttentionTransferLoss,
    ChannelWiseLoss,
    DISTLoss,
    DKDLoss,
    HintLoss,
    RKDLoss,
    SimilarityPreservingLoss,
    SoftTargetLoss,
)

Loss = Callable[[Tensor, Tensor], Tensor]
Shape = tuple[int, ...]
CLASSES = 7


def cases(quick: bool) -> list[Case]:
    logits: Shape = (2, 3, 32, 32, 32) if quick else (2, 3, 96, 96, 96)
    features: Shape = (2, 32, 16, 16, 16) if quick else (2, 32, 48, 48, 48)
    items: Shape = (16, 64) if quick else (64, 512)
    dkd = DKDLoss()
    losses: dict[str, tuple[Shape, Loss, Loss]] = {
        "soft targets, volume": (logits, SoftTargetLoss(), usual_soft_targets),
        "soft targets, images": ((64, CLASSES), SoftTargetLoss(), usual_soft_targets),
        "attention transfer": (features, AttentionTransferLoss(), usual_attention_transfer),
        "hint": (features, HintLoss(), F.mse_loss),
        "channel-wise": (features, ChannelWiseLoss(), usual_channel_wise),
        "DIST, volume": (logits, DISTLoss(), usual_dist),
        "DIST, images": ((64, CLASSES), DISTLoss(), usual_dist),
        "DKD, images": ((64, CLASSES), lambda s, t: dkd(s, t, label=_labels(s)), usual_dkd),
        "DKD, volume": (logits, lambda s, t: dkd(s, t, label=_labels(s)), usual_dkd),
        "RKD": (items, RKDLoss(), usual_rkd),
        "similarity": ((items[0], *features[1:]) if quick else (16, 64, 56, 56), SimilarityPreservingLoss(), usual_sp),
    }
    theirs = torchdistill_losses()
    made = []
    for name, (shape, ours, usual) in losses.items():
        forms = {"usual": usual, "ours": ours} | ({"torchdistill": theirs[name]} if name in theirs else {})
        rounds, memory = 5 if quick else 15, torch.Size(shape).numel() > 50_000
        made.append(Case(name, {form: _maker(loss, shape) for form, loss in forms.items()}, rounds, memory=memory))
    return made


SMALL = "For a batch of logits each call takes some tens of microseconds, of which ours spends a few on its checks."


def bars(found: Found) -> list[Bar]:
    result = []
    if not any("torchdistill" in forms for forms in found.values()):
        result.append(Bar("P13", "ours / torchdistill", "torchdistill is not installed", 1, most=True))
    for case, forms in found.items():
        note = NOTES.get(case.split(",")[0], "")
        for form in [form for form in ("torchdistill", "usual") if form in forms]:
            what = f"{case}, ours / {form}"
            result.append(Bar("P13", what, ratio(forms, "ours", form), 1, most=True, note=note))
            memory = memory_ratio(forms, "ours", form)
            if not isinstance(memory, str):
                result.append(Bar("P13", f"{what}, memory", memory, 1.02, most=True, note=note))
        same = values_agree(forms, "ours", "usual")
        result.append(Bar("P13", f"{case}, relative difference", same, 1e-4, most=True))
    return result


NOTES = {
    "soft targets": SMALL,
    "DKD": "The gradient is written out, and is all that is kept. Ours also leaves out positions without a class; the "
    "usual form does not.",
    "DIST": SMALL,
    "RKD": "Ours takes the angles from the distances, the usual form from all B x B sides.",
    "similarity": "The gradient of the inner products is one product; the usual form's is two and their sum.",
}


def usual_soft_targets(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    log_p = F.log_softmax(student / temperature, dim=1)
    q = F.softmax(teacher / temperature, dim=1)
    return F.kl_div(log_p, q, reduction="none").sum(dim=1).mean() * temperature**2


def usual_attention_transfer(student: Tensor, teacher: Tensor) -> Tensor:
    def attention(x: Tensor) -> Tensor:
        return F.normalize(x.pow(2).mean(dim=1).flatten(1), dim=1)

    return (attention(student) - attention(teacher)).pow(2).sum(dim=1).mean()


def usual_channel_wise(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    q = F.softmax(teacher.flatten(2) / temperature, dim=2)
    log_p = F.log_softmax(student.flatten(2) / temperature, dim=2)
    return F.kl_div(log_p, q, reduction="none").sum(dim=2).mean() * temperature**2


def usual_dist(student: Tensor, teacher: Tensor) -> Tensor:
    p, q = student.softmax(dim=1), teacher.softmax(dim=1)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        a, b = a - a.mean(dim=1, keepdim=True), b - b.mean(dim=1, keepdim=True)
        return 1 - F.cosine_similarity(a, b, dim=1).mean()

    p, q = (x.movedim(1, -1).reshape(-1, x.shape[1]) for x in (p, q))
    return distance(p, q) + distance(p.T, q.T)


def usual_dkd(student: Tensor, teacher: Tensor, temperature: float = 4.0, beta: float = 8.0) -> Tensor:
    label = _labels(student)
    target = torch.zeros_like(student).scatter_(1, label.unsqueeze(1), 1)
    p, q = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
    ours, theirs = (torch.stack([(x * target).sum(1), (x * (1 - target)).sum(1)], dim=1) for x in (p, q))
    first = F.kl_div(ours.log(), theirs, reduction="none").sum(1).mean()
    # A logit lowered by 1000 has no probability.
    others = F.log_softmax(student / temperature - 1000 * target, dim=1)
    wanted = F.softmax(teacher / temperature - 1000 * target, dim=1)
    second = F.kl_div(others, wanted, reduction="none").sum(1).mean()
    return (first + beta * second) * temperature**2


def usual_rkd(student: Tensor, teacher: Tensor) -> Tensor:
    def distances(x: Tensor) -> Tensor:
        squares = x.square().sum(dim=1)
        found = (squares[:, None] + squares[None] - 2 * x @ x.T).clamp(min=1e-12).sqrt()
        found = found * (1 - torch.eye(len(x)))
        return found / found[found > 0].mean()

    def angles(x: Tensor) -> Tensor:
        sides = F.normalize(x[None] - x[:, None], dim=2)
        return torch.bmm(sides, sides.transpose(1, 2))

    n = len(student)
    pairs, triplets = n * (n - 1), n * (n - 1) * (n - 2)
    distance = F.smooth_l1_loss(distances(student), distances(teacher), reduction="sum") / pairs
    both = F.smooth_l1_loss(angles(student), angles(teacher), reduction="none")
    distinct = 1 - torch.eye(n)
    different = distinct[:, :, None] * distinct[:, None] * distinct[None]
    return distance + 2 * (both * different).sum() / triplets


def usual_sp(student: Tensor, teacher: Tensor) -> Tensor:
    def similarity(x: Tensor) -> Tensor:
        x = x.flatten(1)
        return F.normalize(x @ x.T, dim=1)

    return (similarity(student) - similarity(teacher)).pow(2).mean()


def _labels(logits: Tensor) -> Tensor:
    return torch.arange(logits[:, 0].numel()).reshape(logits[:, 0].shape) % logits.shape[1]


def _maker(loss: Loss, shape: Shape) -> Callable[[], Callable[[], float]]:
    def prepare() -> Callable[[], float]:
        torch.manual_seed(0)
        student, teacher = torch.randn(shape, requires_grad=True), torch.randn(shape)
        repeats = max(1, 100_000 // student.numel())  # a step long enough to be timed

        def step() -> float:
            for _ in range(repeats):
                student.grad = None
                value = loss(student, teacher)
                value.backward()
            return value.item()

        return step

    return prepare
