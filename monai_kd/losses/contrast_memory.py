"""What contrastive distillation remembers: one embedding of every training image, of either network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_kd._processes import is_alone, processes
from monai_kd.losses._common import promote

__all__ = ["ContrastMemory"]


class ContrastMemory(nn.Module):
    """Heads and memory banks [0] that contrastive losses share.

    Features of either network are averaged over their positions, projected by a linear head and scaled to unit length.
    The banks hold one such embedding a training image, as moving averages, and its class. They are buffers: checkpoints
    hold them. Give one memory to several losses to let them share heads and banks.

    Both heads are trained; no gradient reaches the teacher's features. In several processes the batches of all are
    gathered, of one size in each, before the banks are written.

    [0] Tian et al., Contrastive Representation Distillation, 2020, https://arxiv.org/abs/1910.10699

    Args:
        labels: class of every training image (N,), in the order of their ``index``; -1 where it is not known.
        student_channels: channels of the student's features.
        teacher_channels: channels of the teacher's features, the student's if ``None``.
        dimension: D, length of the embeddings.
        momentum: share of the old row in a new one, 0 <= momentum < 1.
        seed: of the rows before the first update.

    Raises:
        ValueError: labels that are no classes, no image, channels or a dimension below 1, a momentum out of range.

    Example:
        >>> memory = ContrastMemory([0, 0, 1, 1], student_channels=8)
        >>> student, teacher = memory.embed(torch.rand(2, 8), torch.rand(2, 8))
        >>> memory.update(torch.tensor([0, 3]), student, teacher)
        >>> memory.student_rows.shape
        torch.Size([4, 128])
    """

    labels: Tensor
    student_rows: Tensor
    teacher_rows: Tensor
    membership: Tensor

    def __init__(
        self,
        labels: Sequence[int] | Tensor,
        student_channels: int,
        teacher_channels: int | None = None,
        dimension: int = 128,
        momentum: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        teacher_channels = student_channels if teacher_channels is None else teacher_channels
        if min(student_channels, teacher_channels, dimension) < 1:
            raise ValueError(
                f"channels and dimension must be 1 or more, got {student_channels}, {teacher_channels}, {dimension}."
            )
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be 0 or more and below 1, got {momentum}.")
        self.momentum = momentum
        self.student_head = nn.Linear(student_channels, dimension)
        self.teacher_head = nn.Linear(teacher_channels, dimension)
        labels = _check_labels(labels)
        self.register_buffer("labels", labels)
        generator = torch.Generator().manual_seed(seed)
        for name in ("student_rows", "teacher_rows"):
            rows = torch.rand(len(labels), dimension, generator=generator) * 2 - 1
            self.register_buffer(name, rows * (3 / dimension) ** 0.5)  # of unit length on average, as [0] starts
        self.register_buffer("membership", _membership(labels), persistent=False)
        self.register_load_state_dict_pre_hook(_check_saved_labels)

    def embed(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (B, D) of the features (B, C, *spatial) or (B, C) of both networks."""
        if student.shape[0] != teacher.shape[0]:
            raise ValueError(
                f"features of one batch, got {student.shape[0]} of the student, {teacher.shape[0]} of the teacher."
            )
        ours = _pool(student).to(self.student_head.weight.dtype)
        theirs = _pool(teacher).to(self.teacher_head.weight.dtype).detach().clone()  # it may be of inference mode
        for features, head, name in ((ours, self.student_head, "student"), (theirs, self.teacher_head, "teacher")):
            if features.shape[1:] != (head.in_features,):
                raise ValueError(
                    f"the memory was made for {head.in_features} channels of the {name}, got features "
                    f"{tuple(features.shape)}: set {name}_channels, or tap another layer."
                )
        with torch.autocast(student.device.type, enabled=False):
            return F.normalize(self.student_head(ours), dim=1), F.normalize(self.teacher_head(theirs), dim=1)

    def check_index(self, index: Tensor, batch_size: int, least: int = 0) -> Tensor:
        """``index`` (B,) as integers, or ``ValueError`` unless it names rows of the banks.

        On an accelerator its values are checked without waiting for them: a wrong one fails in a later call.
        """
        index = index.as_subclass(Tensor).reshape(-1)
        if index.is_floating_point() or len(index) != batch_size:
            raise ValueError(
                f"expected one integer index an image, {batch_size} in all; got {tuple(index.shape)} of {index.dtype}."
            )
        _require(
            ((index >= least) & (index < len(self.labels))).all(),
            f"an index is outside the memory's {len(self.labels)} training images",
            index,
        )
        return index.long()

    def check_label(self, label: Tensor, index: Tensor) -> Tensor:
        """``label`` (B,) as integers, or ``ValueError`` unless they are the memory's own of the rows ``index``."""
        label = label.as_subclass(Tensor).reshape(-1)
        if label.is_floating_point() or len(label) != len(index):
            raise ValueError(
                f"expected one integer class an image, {len(index)} in all; got {tuple(label.shape)} of {label.dtype}."
            )
        label = label.long()
        known = self.labels.index_select(0, index)
        _require((label == known).all(), "the classes of the batch are not those of the memory", label, known)
        return label

    @torch.no_grad()
    def update(self, index: Tensor, student: Tensor, teacher: Tensor) -> None:
        """Write embeddings: a row becomes the unit vector along ``momentum * row + (1 - momentum) * embedding``.

        Args:
            index: row of each image, (B,), -1 for one that has none. Of an image that occurs twice the last one counts.
            student: embeddings (B, D) of :meth:`embed`. One that is not finite leaves its row as it is.
            teacher: the same of the teacher.
        """
        index = gather(self.check_index(index, len(student), least=-1))
        valid = index >= 0
        order = torch.arange(len(index), device=index.device)
        last = torch.where(index[:, None] == index[None, :], order, -1).amax(dim=1)
        # An image without a row repeats what another one writes; if none has a row, row 0 is written as it is.
        instead = valid.long().argmax(dim=0, keepdim=True)
        target = torch.where(valid, index, index[instead]).clamp(min=0)
        source = torch.where(valid, last, last[instead])
        for rows, embeddings in ((self.student_rows, student), (self.teacher_rows, teacher)):
            old = rows.index_select(0, index.clamp(min=0))
            new = F.normalize(self.momentum * old + (1 - self.momentum) * gather(embeddings).to(rows.dtype), dim=1)
            new = torch.where((valid & new.isfinite().all(dim=1)).unsqueeze(1), new, old)
            rows.index_copy_(0, target, new.index_select(0, source))

    def centroids(self, rectify: bool = True) -> tuple[Tensor, Tensor]:
        """Direction of the mean row of each class that has any: (classes, D) of the student's and the teacher's bank.

        Args:
            rectify: set negative entries of the rows to 0 first.
        """
        with torch.autocast(self.labels.device.type, enabled=False):
            ours, theirs = (
                F.normalize(self.membership @ (rows.relu() if rectify else rows), dim=1)
                for rows in (self.student_rows, self.teacher_rows)
            )
        return ours, theirs


def _require(holds: Tensor, problem: str, *seen: Tensor) -> None:
    """Raise ``ValueError`` unless ``holds``; an accelerator is not waited for, there it fails in a later call."""
    if holds.device.type != "cpu":
        torch._assert_async(holds, problem)
    elif not holds:
        got = " against ".join(str(values.tolist()) for values in seen)
        raise ValueError(
            f"{problem}: got {got}. Make the memory of the labels of the data list you train on, in the order of its "
            "index."
        )


def _check_labels(labels: Sequence[int] | Tensor) -> Tensor:
    values = torch.as_tensor(labels)
    integers = not values.is_floating_point() and values.dtype != torch.bool
    if values.ndim != 1 or len(values) == 0 or not integers or values.min() < -1:
        least = f", the least {values.min()}" if values.numel() else ""
        raise ValueError(
            "labels are one class 0, 1, ... for each training image, -1 where it is not known; "
            f"got {tuple(values.shape)} of {values.dtype}{least}."
        )
    return values.long().clone()


def _check_saved_labels(memory: ContrastMemory, state: Mapping[str, Tensor], prefix: str, *others: Any) -> None:
    """Rows that were saved for other images must not be taken for those of this list."""
    saved, error_messages = state.get(f"{prefix}labels"), others[-1]
    if saved is not None and saved.shape == memory.labels.shape and not saved.to(memory.labels).equal(memory.labels):
        error_messages.append(
            f"the {len(saved)} rows of {prefix.rstrip('.') or 'this memory'} are of images with other classes: resume "
            "with the data list that the run was started with."
        )


def _membership(labels: Tensor) -> Tensor:
    """Which rows belong to each class that has any, (classes, N), 0 or 1."""
    classes = labels.unique()
    return (labels == classes[classes >= 0].unsqueeze(1)).float()


def _pool(features: Tensor) -> Tensor:
    features = promote(features)
    return features.flatten(2).mean(dim=2) if features.ndim > 2 else features


def gather(values: Tensor) -> Tensor:
    """``values`` (n, ...) of all processes, one after the other; n must be the same in each."""
    if processes() == 1:
        return values
    if is_alone():
        raise ValueError(
            "several processes gather what they remember, as many images of each; in a batch that says by 'has_label' "
            "which of its images count they may differ. Leave that key out, and give the images without a label as "
            "unlabelled_loader."
        )
    values = values.contiguous()
    parts = [torch.empty_like(values) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, values)
    return torch.cat(parts)
