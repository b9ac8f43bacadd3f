"""Laws that every distillation loss and every teacher should obey, for the tests of your own.

Each ``assert_...`` takes a loss, called as ``loss(student, teacher, **batch)`` and returning a scalar, and raises an
``AssertionError`` that says which law broke and what usually causes it. :func:`check_loss` runs all that apply.

Example:
    >>> from monai_kd.losses import SoftTargetLoss
    >>> student, teacher = torch.randn(2, 2, 3, 8, 6)
    >>> check_loss(SoftTargetLoss(), student, teacher)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = [
    "assert_batch_average",
    "assert_finite_on_empty_mask",
    "assert_finite_on_extremes",
    "assert_gradient_reaches_student",
    "assert_half_precision_safe",
    "assert_masked_positions_ignored",
    "assert_no_gradient_to_teacher",
    "assert_same_on_any_patch_size",
    "assert_spatial_permutation_invariant",
    "assert_unchanged",
    "assert_zero_at_equality",
    "check_loss",
]

Loss = Callable[..., Tensor]
Inputs = tuple[Tensor, Tensor, Mapping[str, Tensor]]


def assert_gradient_reaches_student(loss: Loss, student: Tensor, teacher: Tensor, **batch: Tensor) -> None:
    """Every item of the student receives a finite gradient that is not zero."""
    gradient = _student_gradient(loss, student, teacher, batch)
    assert gradient is not None, "no gradient reaches the student; is it detached, or are the arguments swapped?"
    assert gradient.isfinite().all(), "the gradient at the student is not finite."
    moved = gradient.flatten(1).abs().amax(dim=1) > 0
    assert moved.all(), f"the gradient at the student is 0 for items {(~moved).nonzero().flatten().tolist()}."


def assert_no_gradient_to_teacher(loss: Loss, student: Tensor, teacher: Tensor, **batch: Tensor) -> None:
    """The teacher receives no gradient, even if its output asks for one."""
    teacher = _leaf(teacher)
    loss(_leaf(student), teacher, **batch).backward()
    assert teacher.grad is None or not teacher.grad.any(), "the teacher receives a gradient; use teacher.detach()."


def assert_zero_at_equality(loss: Loss, student: Tensor, **batch: Tensor) -> None:
    """A student that equals its teacher has nothing to learn."""
    value = loss(student.clone(), student.clone(), **batch)
    assert value.abs() <= 1e-6, f"the loss of a student that equals its teacher is {value:.3g}, expected 0."


def assert_same_on_any_patch_size(
    loss: Loss, make_inputs: Callable[..., Inputs], sizes: Sequence[Any], draws: int = 8, tolerance: float = 0.2
) -> None:
    """One weight fits every patch size: inputs of one distribution give one value, up to ``tolerance``.

    Args:
        loss: the loss.
        make_inputs: from a size to random (student, teacher, batch) of that size.
        sizes: what ``make_inputs`` takes, such as spatial sizes in 2D and 3D.
        draws: the values of so many inputs are averaged.
        tolerance: largest relative difference between two sizes.
    """
    values = {}
    for size in sizes:
        inputs = [make_inputs(size) for _ in range(draws)]
        values[size] = sum(float(loss(student, teacher, **batch)) for student, teacher, batch in inputs) / draws
    low, high = min(values.values()), max(values.values())
    assert high - low <= tolerance * abs(high), (
        f"the loss depends on the patch size: {values}. Average over positions ('batchmean' does not)."
    )


def assert_batch_average(loss: Loss, student: Tensor, teacher: Tensor, **batch: Tensor) -> None:
    """The loss of a batch is the mean over its items (not so for relations within a batch, nor for uneven masks)."""
    whole = loss(student, teacher, **batch)
    items = [
        loss(student[i : i + 1], teacher[i : i + 1], **{k: v[i : i + 1] for k, v in batch.items()})
        for i in range(student.shape[0])
    ]
    mean = torch.stack(items).mean()
    assert _close(whole, mean), f"the loss of a batch is {whole:.6g}, the mean over its items {mean:.6g}."


def assert_half_precision_safe(loss: Loss, student: Tensor, teacher: Tensor, **batch: Tensor) -> None:
    """Half-precision inputs and autocast only round the inputs: the loss computes in float32."""
    student, teacher = student.float(), teacher.float()
    for dtype in (torch.bfloat16, torch.float16):
        half = student.to(dtype), teacher.to(dtype)
        expected = loss(half[0].float(), half[1].float(), **batch)
        _assert_computed_in_float32(loss(*half, **batch), expected, f"with {dtype} inputs")
        _assert_finite(loss, *half, batch, f"with {dtype} inputs")
    expected = loss(student, teacher, **batch)
    with torch.autocast(device_type=student.device.type, dtype=torch.bfloat16):
        value = loss(student, teacher, **batch)
    _assert_computed_in_float32(value, expected, "under bfloat16 autocast")


def assert_spatial_permutation_invariant(loss: Loss, student: Tensor, teacher: Tensor, **batch: Tensor) -> None:
    """Turning height, width and depth around changes nothing: no softmax or mean runs over one of them alone."""
    spatial = student.shape[2:]

    def turn(x: Tensor) -> Tensor:
        # What has no spatial axes (a label of each image) stays as it is.
        if not spatial or x.shape[-len(spatial) :] != spatial:
            return x
        kept = x.ndim - len(spatial)
        return x.permute(*range(kept), *reversed(range(kept, x.ndim)))

    value = loss(student, teacher, **batch)
    turned = loss(turn(student), turn(teacher), **{k: turn(v) for k, v in batch.items()})
    assert _close(value, turned), (
        f"the loss changes with the order of the spatial axes, from {value:.6g} to {turned:.6g}."
    )


def assert_finite_on_empty_mask(loss: Loss, student: Tensor, teacher: Tensor, **batch: Tensor) -> None:
    """Items without a valid position give a finite loss and do not move the student."""
    one_empty = torch.ones(student.shape[0], 1, *student.shape[2:], device=student.device)
    one_empty[0] = 0
    for mask in (torch.zeros_like(one_empty), one_empty):
        _assert_finite(loss, student, teacher, {**batch, "mask": mask}, "on an empty mask")
        gradient = _student_gradient(loss, student, teacher, {**batch, "mask": mask})
        assert gradient is None or not gradient[0].any(), "positions outside the mask move the student."


def assert_masked_positions_ignored(loss: Loss, student: Tensor, teacher: Tensor, **batch: Tensor) -> None:
    """What student and teacher say outside the mask changes nothing."""
    mask = torch.arange(student[:, :1].numel(), device=student.device).reshape(student[:, :1].shape) % 3 != 0
    value = loss(student, teacher, **{**batch, "mask": mask})
    noise = torch.where(mask, 0.0, 100.0 * torch.randn_like(student))
    other = loss(student + noise, teacher - noise, **{**batch, "mask": mask})
    assert _close(value, other), f"positions outside the mask change the loss from {value:.6g} to {other:.6g}."


def assert_finite_on_extremes(loss: Loss, student: Tensor, teacher: Tensor, **batch: Tensor) -> None:
    """Value and gradient stay finite for confident, constant, one-sided and single-item inputs."""
    background = torch.full_like(student, -1e4)
    background[:, 0] = 1e4
    cases = {
        "extreme and opposite": (1e4 * student.sign(), -1e4 * teacher.sign()),
        "zero": (torch.zeros_like(student), torch.zeros_like(teacher)),
        "a constant student": (torch.ones_like(student), teacher),
        "a constant teacher": (student, torch.ones_like(teacher)),
        "an all-background student": (background, teacher),
        "identical items": (student[:1].expand_as(student), teacher),
    }
    for case, (first, second) in cases.items():
        _assert_finite(loss, first, second, batch, f"for {case} input")
    _assert_finite(loss, student[:1], teacher[:1], {k: v[:1] for k, v in batch.items()}, "for a batch of one item")


def assert_unchanged(network: nn.Module, before_state: Mapping[str, Tensor]) -> None:
    """A frozen network is as it was: bit-equal state and evaluation mode everywhere.

    Args:
        network: the teacher after training.
        before_state: copies from before, ``{k: v.clone() for k, v in network.state_dict().items()}``.
    """
    state = network.state_dict()
    assert state.keys() == before_state.keys(), (
        f"the state has other keys: {sorted(state.keys() ^ before_state.keys())}."
    )
    changed = [key for key, value in state.items() if not torch.equal(value, before_state[key])]
    assert not changed, f"the network changed in {changed}; was it in train mode, or in the optimiser?"
    training = [name or type(network).__name__ for name, module in network.named_modules() if module.training]
    assert not training, f"modules in train mode: {training}."


def check_loss(
    loss: Loss,
    student: Tensor,
    teacher: Tensor,
    *,
    mean_over_items: bool = True,
    make_inputs: Callable[..., Inputs] | None = None,
    sizes: Sequence[Any] = (),
    **batch: Tensor,
) -> None:
    """Hold a loss to all laws that apply.

    Args:
        loss: the loss. The laws on masks apply when it has an argument ``mask``.
        student: random output or features, shape (B, C, *spatial), preferably with different spatial sizes.
        teacher: the same of the teacher. Equality is only checked when the shapes are equal.
        mean_over_items: whether the loss is a mean over the items of a batch; relations between items are not.
        make_inputs: with ``sizes``, see :func:`assert_same_on_any_patch_size`, which is left out without it.
        sizes: the patch sizes.
        **batch: further arguments of the loss, with one entry an item, such as ``label``.
    """
    assert_gradient_reaches_student(loss, student, teacher, **batch)
    assert_no_gradient_to_teacher(loss, student, teacher, **batch)
    assert_half_precision_safe(loss, student, teacher, **batch)
    assert_spatial_permutation_invariant(loss, student, teacher, **batch)
    assert_finite_on_extremes(loss, student, teacher, **batch)
    if student.shape == teacher.shape:
        assert_zero_at_equality(loss, student, **batch)
    if mean_over_items:
        assert_batch_average(loss, student, teacher, **batch)
    if "mask" not in batch and "mask" in _argument_names(loss):
        assert_finite_on_empty_mask(loss, student, teacher, **batch)
        assert_masked_positions_ignored(loss, student, teacher, **batch)
    if make_inputs is not None:
        assert_same_on_any_patch_size(loss, make_inputs, sizes)


def _leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


def _student_gradient(loss: Loss, student: Tensor, teacher: Tensor, batch: Mapping[str, Tensor]) -> Tensor | None:
    student = _leaf(student)
    value = loss(student, teacher.detach(), **batch)
    if value.requires_grad:
        value.backward()
    return student.grad


def _assert_finite(loss: Loss, student: Tensor, teacher: Tensor, batch: Mapping[str, Tensor], case: str) -> None:
    value = loss(student, teacher, **batch)
    assert value.isfinite(), f"the loss is {value:.3g} {case}."
    gradient = _student_gradient(loss, student, teacher, batch)
    assert gradient is None or gradient.isfinite().all(), f"the gradient at the student is not finite {case}."


def _assert_computed_in_float32(value: Tensor, expected: Tensor, case: str) -> None:
    assert value.dtype == torch.float32, f"the loss is {value.dtype} {case}, expected float32; use .float() at its top."
    assert _close(value, expected), (
        f"the loss is {value:.6g} {case}, expected {expected:.6g}; does it compute in float32?"
    )


def _close(value: Tensor, expected: Tensor) -> bool:
    return torch.allclose(value, expected, rtol=1e-4, atol=1e-6)


def _argument_names(loss: Loss) -> set[str]:
    return set(inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters)
