"""Teachers, taps and loss terms of one distillation, independent of any engine."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from monai_kd._processes import alone, share, together
from monai_kd.labelled import HAS_LABEL, labelled_items, select_items
from monai_kd.schedules import Schedule, weight_at
from monai_kd.taps import FeatureTaps, check_tap_names, describe, dry_run, unwrap
from monai_kd.teachers import OUTPUT, Teacher

__all__ = ["DistillationTerm", "Distiller"]

IMAGE, LABEL = "image", "label"  # MONAI's CommonKeys
_RESERVED = {IMAGE, LABEL, "pred", "loss", "task_loss"}
AdapterFactory = Callable[[Any, Any], nn.Module]


class DistillationTerm(nn.Module):
    """One loss between tapped outputs of the student and of one or more teachers.

    A tap is a layer name, or "output" for what the network returns. Behind it, ``[i]`` picks the i-th item of a list,
    tuple or of a layer that ran several times. "output" alone is the full-resolution head where a network in training
    returns several (a list, a tuple, or DynUNet's stack (B, heads, C, *spatial)).

    Args:
        name: key of this term in logs and in ``engine.state.output``.
        loss: called as ``loss(student, teacher, **batch)``; a list of taps arrives as a list of tensors.
        student: tap, or list of taps, of the student.
        teacher: tap, or list of taps; "<teacher>:<tap>" where there are several teachers.
        weight: a number, or a function of the epoch (see ``monai_kd.schedules``).
        batch: loss arguments taken from the batch, ``{argument: batch key}``. A term that takes the label sees the
            labelled items only.
        adapter: a module applied to what the loss would get of the student (a list of tensors for a list of taps), or a
            function of both shapes that makes one (such as ``monai_kd.adapters.ProjectionAdapter``, for lists
            ``ChannelAdapter``; the ``Distiller`` then needs ``input_shape``).

    Raises:
        ValueError: the name is taken by MONAI or no plain word, the weight is negative, or the loss does not take these
            arguments.

    Example:
        >>> from monai_kd.losses import SoftTargetLoss
        >>> DistillationTerm("soft_target", SoftTargetLoss(temperature=2.0), weight=0.5).teacher_taps
        ['output']
    """

    def __init__(
        self,
        name: str,
        loss: Callable[..., Tensor],
        student: str | Sequence[str] = OUTPUT,
        teacher: str | Sequence[str] = OUTPUT,
        weight: float | Schedule = 1.0,
        batch: Mapping[str, str] | None = None,
        adapter: nn.Module | AdapterFactory | None = None,
    ) -> None:
        super().__init__()
        if not _is_word(name) or name in _RESERVED:
            raise ValueError(
                f"a term's name is a plain word that keys the engine's output; got '{name}' "
                f"(taken: {sorted(_RESERVED)})."
            )
        if not callable(loss):
            raise TypeError(f"term '{name}': the loss must be callable, got {type(loss).__name__}.")
        weight_at(weight, 1)
        self.name = name
        self.loss = loss
        self.weight = weight
        self.batch = dict(batch or {})
        if not student or not teacher:
            raise ValueError(f"term '{name}' needs a tap of each side; got student {student!r}, teacher {teacher!r}.")
        self.student_taps = [student] if isinstance(student, str) else list(student)
        self.teacher_taps = [teacher] if isinstance(teacher, str) else list(teacher)
        self._single = isinstance(student, str), isinstance(teacher, str)
        if adapter is not None and not callable(adapter):
            raise TypeError(
                f"term '{name}': an adapter is a module or a function of two shapes, got {type(adapter).__name__}."
            )
        self.adapter: Any = adapter
        self._check_signature()

    @property
    def needs_sizing(self) -> bool:
        """Whether the adapter still waits for the shapes of both taps."""
        return self.adapter is not None and not isinstance(self.adapter, nn.Module)

    @property
    def needs_label(self) -> bool:
        """Whether the loss takes the label, so that unlabelled items cannot count."""
        return LABEL in self.batch.values()

    def size_adapter(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> None:
        """Make the adapter for the shapes of the taps; a list of taps gives a list of shapes."""
        assert self.adapter is not None  # noqa: S101  # needs_sizing
        ours, theirs = self._as_tapped([tuple(x.shape) for x in student], [tuple(x.shape) for x in teacher])
        self.adapter = self.adapter(ours, theirs)

    def forward(self, student: Sequence[Any], teacher: Sequence[Any], **batch: Any) -> Tensor:
        """The unweighted loss of tapped values, in float32.

        Args:
            student: one value for each of ``student_taps``.
            teacher: one value for each of ``teacher_taps``.
            batch: further arguments of the loss.
        """
        ours, theirs = self._as_tapped([_float(value) for value in student], [_float(value) for value in teacher])
        if self.adapter is not None:
            ours = self.adapter(ours)
        value = self.loss(ours, theirs, **batch)
        if describe(value) != "()":
            raise ValueError(f"term '{self.name}': the loss must return a scalar, got {describe(value)}; average it.")
        return value

    def _as_tapped(self, student: list[Any], teacher: list[Any]) -> tuple[Any, Any]:
        """Both sides as the taps were given: a name means one value, a list of names a list."""
        return student[0] if self._single[0] else student, teacher[0] if self._single[1] else teacher

    def _check_signature(self) -> None:
        target = self.loss.forward if isinstance(self.loss, nn.Module) else self.loss
        try:
            signature = inspect.signature(target)
        except (TypeError, ValueError):  # a builtin without a signature
            return
        try:
            signature.bind(None, None, **dict.fromkeys(self.batch))
        except TypeError as error:
            raise ValueError(
                f"term '{self.name}': {type(self.loss).__name__} takes {signature}, but would be called with "
                f"(student, teacher{''.join(f', {name}=' for name in self.batch)}): {error}. "
                "Set batch={argument: batch key}."
            ) from None


class Distiller(nn.Module):
    """Turns a student's outputs and a batch into named distillation losses.

    ``parameters()`` are the adapters' (and learnable losses') alone, ``state_dict()`` holds what a resumed run needs
    and nothing of a frozen teacher. Give the parameters to the optimiser beside the student's, and wrap the distiller
    in ``DistributedDataParallel`` when it has any.

    Args:
        student: the network to be trained; used here to check names and shapes, neither kept nor changed.
        teacher: one teacher, or several by name.
        terms: the losses.
        input_shape: shape of a batch of images, (B, C, *spatial) with B >= 2, or such by batch key where a teacher has
            images of its own. With it, student and teachers run once on zeros: adapters are sized, and shapes that a
            loss refuses are found before training (except in terms that take something of the batch).

    Raises:
        ValueError: a tap or teacher that does not exist (the closest names are listed), equal term names, shapes
            that do not fit, an adapter to be sized without ``input_shape``, or a student that shares weights with its
            teacher.

    Example:
        >>> from monai_kd.losses import SoftTargetLoss
        >>> from monai_kd.teachers import FrozenTeacher
        >>> student, teacher = nn.Conv2d(1, 3, 1), nn.Conv2d(1, 3, 1)
        >>> distiller = Distiller(student, FrozenTeacher(teacher), [DistillationTerm("soft_target", SoftTargetLoss())])
        >>> images = torch.rand(2, 1, 8, 8)
        >>> sorted(distiller({"output": student(images)}, {"image": images}))
        ['soft_target']
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher | Mapping[str, Teacher],
        terms: Sequence[DistillationTerm],
        input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        teachers = dict(teacher) if isinstance(teacher, Mapping) else {"teacher": teacher}
        for name, one in teachers.items():
            if not _is_word(name):
                raise ValueError(f"a teacher's name is a plain word, got '{name}'.")
            if not isinstance(one, Teacher):
                raise TypeError(
                    f"'{name}' is a {type(one).__name__}, not a teacher; wrap a network in FrozenTeacher(network)."
                )
        if not terms:
            raise ValueError("nothing to distil: give at least one DistillationTerm.")
        names = [term.name for term in terms]
        if len(set(names)) != len(names):
            raise ValueError(f"terms need different names, got {names}.")
        self.teachers = nn.ModuleDict(teachers)  # type: ignore[arg-type]
        self.terms = nn.ModuleDict({term.name: term for term in terms})
        self._check_weights_apart(student)
        check_tap_names(student, self.student_taps, owner="the student")
        for name, taps in self._teacher_taps().items():
            self.teachers[name].check(taps, name)  # type: ignore[operator]
        if input_shape is not None:
            self._size_and_check(student, input_shape)
        elif waiting := [term.name for term in self._terms() if term.needs_sizing]:
            raise ValueError(f"the adapters of {waiting} are sized by a dry run: give input_shape=(B, C, *spatial).")

    @property
    def student_taps(self) -> list[str]:
        """Layers of the student that the terms need, without "output"."""
        taps = [_split_index(tap)[0] for term in self._terms() for tap in term.student_taps]
        return [tap for tap in dict.fromkeys(taps) if tap != OUTPUT]

    def batch_keys(self, labelled: bool = True) -> set[str]:
        """Keys of the batch that teachers and terms read; terms that take a label count only if ``labelled``."""
        keys = {key for term in self._terms() if labelled or not term.needs_label for key in term.batch.values()}
        return keys | {IMAGE} | {self._input_key(name) for name in self.teachers}

    def forward(self, student: Mapping[str, Any], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Unweighted losses by term name.

        Args:
            student: ``{"output": prediction, tap: output, ...}`` of the student.
            batch: images under "image" (and the teachers' keys) and what the terms take; ``has_label`` marks the
                labelled items, all when absent.
        """
        device_type = batch[IMAGE].device.type
        answers = {name: self.teachers[name](batch, taps) for name, taps in self._teacher_taps().items()}
        with torch.autocast(device_type=device_type, enabled=False):
            return {term.name: self._evaluate(term, student, answers, batch) for term in self._terms()}

    def weights(self, epoch: int) -> dict[str, float]:
        """The weight of each term in ``epoch`` (1, 2, ...)."""
        return {term.name: weight_at(term.weight, epoch) for term in self._terms()}

    def total(self, losses: Mapping[str, Tensor], epoch: int) -> Tensor:
        """The weighted sum of ``losses`` in ``epoch``."""
        weights = self.weights(epoch)
        return torch.stack([losses[name] * weight for name, weight in weights.items()]).sum()

    def _evaluate(
        self, term: DistillationTerm, student: Mapping[str, Any], answers: Mapping[str, Any], batch: Mapping[str, Any]
    ) -> Tensor:
        ours, theirs = self._tapped(term, student, answers, batch)
        if not (term.needs_label and HAS_LABEL in batch):
            return term(ours, theirs, **{argument: batch[key] for argument, key in term.batch.items()})
        index = labelled_items(batch[HAS_LABEL], batch[IMAGE].device)
        with alone():  # a process without labelled items does not come to the loss
            if index is not None and index.numel() == 0:
                # Connected to student and adapter, so that each process of several still reaches all gradients.
                value = torch.stack([_float(part).sum() for part in (*ours, *term.parameters())]).sum() * 0.0
            else:
                extra = {argument: batch[key] for argument, key in term.batch.items()}
                if index is not None:
                    ours, theirs, extra = (select_items(part, index) for part in (ours, theirs, extra))
                value = term(ours, theirs, **extra)
        if not together():
            return value
        count = len(batch[IMAGE]) if index is None else len(index)
        return value * share(torch.full((), float(count), device=batch[IMAGE].device))

    def _tapped(
        self, term: DistillationTerm, student: Mapping[str, Any], answers: Mapping[str, Any], batch: Mapping[str, Any]
    ) -> tuple[list[Any], list[Any]]:
        """The values of a term's taps; stacked heads are told from the axes of each network's own images."""
        ours = [_pick(student, tap, batch[IMAGE].ndim, "student") for tap in term.student_taps]
        theirs = []
        for name, tap in map(self._resolve, term.teacher_taps):
            theirs.append(_pick(answers[name], tap, batch[self._input_key(name)].ndim, name))
        return ours, theirs

    def _input_key(self, name: str) -> str:
        return self.teachers[name].input_key  # type: ignore[return-value]

    def _terms(self) -> list[DistillationTerm]:
        return list(self.terms.values())  # type: ignore[arg-type]

    def _resolve(self, reference: str) -> tuple[str, str]:
        """Teacher and tap of "<teacher>:<tap>"."""
        if ":" in reference:
            name, tap = reference.split(":", 1)
        elif len(self.teachers) == 1:
            name, tap = next(iter(self.teachers)), reference
        else:
            raise ValueError(
                f"which teacher's '{reference}'? Write '<teacher>:{reference}', one of {list(self.teachers)}."
            )
        if name not in self.teachers:
            raise ValueError(f"no teacher named '{name}' for tap '{reference}'; known: {list(self.teachers)}.")
        return name, tap

    def _teacher_taps(self) -> dict[str, list[str]]:
        taps: dict[str, list[str]] = {}
        for term in self._terms():
            for reference in term.teacher_taps:
                name, tap = self._resolve(reference)
                taps.setdefault(name, []).append(_split_index(tap)[0])
        return {name: list(dict.fromkeys(found)) for name, found in taps.items()}

    def _check_weights_apart(self, student: nn.Module) -> None:
        ours = {id(parameter) for parameter in student.parameters()}
        for name, teacher in self.teachers.items():
            network = getattr(teacher, "network", None)
            if isinstance(network, nn.Module) and any(id(parameter) in ours for parameter in network.parameters()):
                raise ValueError(
                    f"the teacher '{name}' shares weights with the student and froze them; give it a copy of its own."
                )

    def _dry_answer(self, name: str, taps: list[str], batch: Mapping[str, Tensor], device: torch.device) -> Any:
        key = self._input_key(name)
        teacher = self.teachers[name].to(device)
        try:
            with dry_run(teacher, training=True):  # a mean teacher gathers batch statistics
                return teacher(batch, taps)
        except RuntimeError as error:
            raise ValueError(
                f"the teacher '{name}' cannot take '{key}' of shape {tuple(batch[key].shape)}: {error} "
                f"Give its own shape with input_shape={{'{IMAGE}': ..., '{key}': ...}}."
            ) from error

    def _size_and_check(self, student: nn.Module, input_shape: Sequence[int] | Mapping[str, Sequence[int]]) -> None:
        """One dry forward of every network: size the adapters, let each loss see its shapes."""
        shapes = dict(input_shape) if isinstance(input_shape, Mapping) else {IMAGE: input_shape}
        if IMAGE not in shapes or any(len(shape) < 2 or shape[0] < 2 for shape in shapes.values()):
            raise ValueError(
                f"input_shape is (B, C, *spatial) with B >= 2 (batch statistics need two items), or such by batch key, "
                f"'{IMAGE}' among them; got {input_shape}."
            )
        network = unwrap(student)
        device = next(network.parameters()).device
        batch = {key: torch.zeros(tuple(shape), device=device) for key, shape in shapes.items()}
        batch |= {key: batch[IMAGE] for key in map(self._input_key, self.teachers) if key not in batch}
        with dry_run(network, training=True):
            with FeatureTaps(network, self.student_taps) as taps:
                try:
                    prediction = network(batch[IMAGE])
                except RuntimeError as error:
                    raise ValueError(
                        f"the student cannot take '{IMAGE}' of shape {tuple(batch[IMAGE].shape)}: {error} "
                        "Give the shape of its images as input_shape, and images of a size that fits it."
                    ) from error
                outputs = {OUTPUT: prediction, **taps.outputs()}
            answers = {name: self._dry_answer(name, taps, batch, device) for name, taps in self._teacher_taps().items()}
            for term in self._terms():
                ours, theirs = self._tapped(term, outputs, answers, batch)
                try:
                    if term.needs_sizing:
                        term.size_adapter(ours, theirs)
                    term.to(device)
                    if not term.batch:  # a label cannot be made up
                        term(ours, theirs)
                except (ValueError, RuntimeError, IndexError) as error:
                    raise ValueError(
                        f"term '{term.name}' does not fit: student {term.student_taps} {describe(ours)}, "
                        f"teacher {term.teacher_taps} {describe(theirs)}: {error}"
                    ) from error


def _is_word(name: str) -> bool:
    """Whether ``name`` can key a ``ModuleDict``: a plain word that is none of its attributes."""
    return re.fullmatch(r"[A-Za-z_]\w*", name) is not None and not hasattr(nn.ModuleDict, name)


def _split_index(tap: str) -> tuple[str, int | None]:
    """Layer and item of "layer[i]"."""
    match = re.fullmatch(r"(.+)\[(\d+)\]", tap)
    return (match[1], int(match[2])) if match else (tap, None)


def _pick(outputs: Mapping[str, Any], tap: str, image_axes: int, owner: str) -> Any:
    """The tensor a tap names; "output" is the full-resolution head of a deep-supervision output."""
    layer, index = _split_index(tap)
    value = outputs[layer]
    stacked = layer == OUTPUT and isinstance(value, Tensor) and value.ndim == image_axes + 1
    if index is None and layer == OUTPUT and (stacked or isinstance(value, list | tuple)):
        index = 0
    if index is None:
        if isinstance(value, Tensor):
            return value
        raise ValueError(f"{owner}: '{tap}' returned {describe(value)}; pick one item with '{tap}[i]'.")
    items = value.unbind(1) if stacked else value
    if not isinstance(items, list | tuple) or index >= len(items):
        raise ValueError(
            f"{owner}: '{tap}' asks for item {index} of {describe(value)}. A teacher answers in eval mode, where most "
            "networks return one head: tap the layer that makes the head instead."
        )
    return items[index]


def _float(value: Tensor) -> Tensor:
    """A plain float tensor: MONAI's MetaTensor bookkeeping and half precision stop here."""
    value = value.as_subclass(Tensor)
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
