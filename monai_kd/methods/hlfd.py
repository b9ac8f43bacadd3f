"""HLFD and the rows of its ablation: which layers teach which, for encoder-decoders of any depth.

HLFD, 2023, https://arxiv.org/abs/2311.16700. Its teacher and student have n = 5 encoder levels e1 (shallow) to e5 (the
bottleneck) and decoder levels d5 to d2. Here levels are counted from the top and en is each network's own bottleneck,
so that both may differ in depth; three are the least. Each transfer has the paper's weight, however many there are.

Every function takes the taps of student and teacher (such as ``monai_kd.networks.encoder_decoder_taps(network)``).
Features of a decoder are compared as predictions, for which each term learns a projection: give the ``Distiller``
``input_shape``, and its parameters to the optimiser. Logits are compared with logits as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from monai_kd.adapters import ChannelAdapter
from monai_kd.distiller import DistillationTerm
from monai_kd.losses import ImportanceMapLoss, PredictionMapLoss

__all__ = ["attention_terms", "dkd_terms", "hifd_terms", "hlfd_terms", "ifd_terms", "skd_terms"]


class Taps(Protocol):
    """What the functions read of ``monai_kd.networks.EncoderDecoderTaps``."""

    @property
    def encoder(self) -> tuple[str, ...]:
        """e1 (shallow) to en (the bottleneck)."""

    @property
    def decoder(self) -> tuple[str, ...]:
        """dn (deepest) to d2 (shallowest)."""

    @property
    def head(self) -> str:
        """The full-resolution logits."""


def hlfd_terms(
    student: Taps,
    teacher: Taps,
    temperature: float = 4.0,
    p: float = 4.0,
    pixel_weight: float = 0.1,
    feature_weight: float = 0.9,
    unified: float = 0.5,
    individual: float = 0.5,
    native_resolution: bool = False,
) -> list[DistillationTerm]:
    """HLFD: the teacher's middle levels teach the student's first, its last one the student's middle levels.

    * ``importance_unified``: e1 learns from the teacher's e2 to e(n-1), joined.
    * ``importance_e<k>``, k from 2 to n - 1: learns from the teacher's bottleneck.
    * ``prediction_unified``: dn learns from all of the teacher's decoder but its shallowest level, joined.
    * ``prediction_d<k>``, k from n - 1 to 2: learns from the teacher's logits.

    The student's own logits and bottleneck learn from the task alone.

    Args:
        student: taps of the student.
        teacher: taps of the teacher.
        temperature: of the predictions.
        p: power of the importance maps.
        pixel_weight: of all predictions.
        feature_weight: of all importance maps.
        unified: share of the unified terms in either.
        individual: share of each individual term in either.
        native_resolution: compare each term's maps at the coarsest of their sizes, where the paper enlarges some.

    Returns:
        The terms, 2 (n - 1) of them for a student with n - 1 decoder levels.

    Raises:
        ValueError: fewer than three encoder or two decoder levels.

    Example:
        >>> from monai.networks.nets import SegResNet
        >>> from monai_kd.networks import encoder_decoder_taps
        >>> taps = encoder_decoder_taps(SegResNet(3, init_filters=8))
        >>> [term.name for term in hlfd_terms(taps, taps)][:3]
        ['importance_unified', 'importance_e2', 'importance_e3']
    """
    _check_depth(student, teacher)
    maps, predictions = ImportanceMapLoss(p, native_resolution), PredictionMapLoss(temperature, native_resolution)
    features = [_importance("unified", student.encoder[0], teacher.encoder[1:-1], maps, feature_weight * unified)]
    for level in range(2, len(student.encoder)):
        features.append(_importance_of_bottleneck(student, teacher, level, maps, feature_weight * individual))
    pixels = [
        _prediction("unified", student.decoder[0], teacher.decoder[:-1], predictions, pixel_weight * unified),
        *(
            _prediction(f"d{level}", tap, teacher.head, predictions, pixel_weight * individual)
            for level, tap in list(_decoder_levels(student).items())[1:]
        ),
    ]
    return features + pixels


def skd_terms(
    student: Taps,
    teacher: Taps,
    temperature: float = 4.0,
    p: float = 4.0,
    pixel_weight: float = 0.1,
    feature_weight: float = 0.9,
    native_resolution: bool = False,
) -> list[DistillationTerm]:
    """SKD: like teaches like, at the end of either part: logits (``prediction_output``) and bottleneck
    (``importance_e<n>``). Arguments as in :func:`hlfd_terms`.
    """
    _check_depth(student, teacher)
    maps, predictions = ImportanceMapLoss(p, native_resolution), PredictionMapLoss(temperature, native_resolution)
    return [
        _importance_of_bottleneck(student, teacher, len(student.encoder), maps, feature_weight),
        _output(student, teacher, predictions, pixel_weight),
    ]


def attention_terms(
    student: Taps, teacher: Taps, p: float = 4.0, feature_weight: float = 1.0, native_resolution: bool = False
) -> list[DistillationTerm]:
    """AT: the bottleneck alone (``importance_e<n>``). Arguments as in :func:`hlfd_terms`."""
    _check_depth(student, teacher)
    maps = ImportanceMapLoss(p, native_resolution)
    return [_importance_of_bottleneck(student, teacher, len(student.encoder), maps, feature_weight)]


def dkd_terms(
    student: Taps,
    teacher: Taps,
    temperature: float = 4.0,
    p: float = 4.0,
    pixel_weight: float = 0.1,
    feature_weight: float = 0.9,
    native_resolution: bool = False,
) -> list[DistillationTerm]:
    """DKD: like teaches like at every level: logits (``prediction_output``), ``importance_e<k>``, ``prediction_d<k>``.

    Levels that one network alone has are left out, so bottlenecks of different depth are not compared. In the released
    code the student's deepest decoder level is compared with itself; here with the teacher's. Arguments as in
    :func:`hlfd_terms`.
    """
    _check_depth(student, teacher)
    maps, predictions = ImportanceMapLoss(p, native_resolution), PredictionMapLoss(temperature, native_resolution)
    ours, theirs = _decoder_levels(student), _decoder_levels(teacher)
    features = [
        _importance(f"e{level}", mine, other, maps, feature_weight)
        for level, (mine, other) in enumerate(zip(student.encoder, teacher.encoder), start=1)
    ]
    pixels = [
        _prediction(f"d{level}", tap, theirs[level], predictions, pixel_weight)
        for level, tap in ours.items()
        if level in theirs
    ]
    return [*features, _output(student, teacher, predictions, pixel_weight), *pixels]


def hifd_terms(
    student: Taps,
    teacher: Taps,
    temperature: float = 4.0,
    p: float = 4.0,
    pixel_weight: float = 0.1,
    feature_weight: float = 0.9,
    native_resolution: bool = False,
) -> list[DistillationTerm]:
    """HIFD: SKD, and the student's even levels below n learn from the teacher's bottleneck (``importance_e<k>``) and
    logits (``prediction_d<k>``); of five levels the second and the fourth. Arguments as in :func:`hlfd_terms`.
    """
    features, output = skd_terms(student, teacher, temperature, p, pixel_weight, feature_weight, native_resolution)
    maps, predictions = ImportanceMapLoss(p, native_resolution), PredictionMapLoss(temperature, native_resolution)
    even, decoder = range(2, len(student.encoder), 2), _decoder_levels(student)
    return [
        features,
        *(_importance_of_bottleneck(student, teacher, level, maps, feature_weight) for level in even),
        output,
        *(_prediction(f"d{k}", decoder[k], teacher.head, predictions, pixel_weight) for k in even if k in decoder),
    ]


def ifd_terms(
    student: Taps,
    teacher: Taps,
    temperature: float = 4.0,
    p: float = 4.0,
    pixel_weight: float = 0.1,
    feature_weight: float = 0.9,
    native_resolution: bool = False,
) -> list[DistillationTerm]:
    """IFD: SKD, and the student's levels, joined, learn from the teacher's bottleneck (``importance_joined``, of e1 to
    e(n-1)) and logits (``prediction_joined``, of the decoder). Arguments as in :func:`hlfd_terms`.
    """
    features, output = skd_terms(student, teacher, temperature, p, pixel_weight, feature_weight, native_resolution)
    maps, predictions = ImportanceMapLoss(p, native_resolution), PredictionMapLoss(temperature, native_resolution)
    return [
        features,
        _importance("joined", student.encoder[:-1], teacher.encoder[-1], maps, feature_weight),
        output,
        _prediction("joined", student.decoder, teacher.head, predictions, pixel_weight),
    ]


def _check_depth(student: Taps, teacher: Taps) -> None:
    for owner, taps in (("student", student), ("teacher", teacher)):
        if len(taps.encoder) < 3 or len(taps.decoder) < 2:
            raise ValueError(
                f"the {owner} has {len(taps.encoder)} encoder and {len(taps.decoder)} decoder levels; at least 3 and 2 "
                "are needed, or there is no level between the first and the bottleneck. Tap more layers, or take a "
                "deeper network."
            )


def _decoder_levels(taps: Taps) -> dict[int, str]:
    """{n: dn, ..., 2: d2}: dk makes level k - 1 of level k, as in the paper."""
    return {len(taps.encoder) - i: tap for i, tap in enumerate(taps.decoder)}


def _importance(
    name: str, student: str | Sequence[str], teacher: str | Sequence[str], loss: ImportanceMapLoss, weight: float
) -> DistillationTerm:
    return DistillationTerm(f"importance_{name}", loss, student, teacher, weight)


def _importance_of_bottleneck(
    student: Taps, teacher: Taps, level: int, loss: ImportanceMapLoss, weight: float
) -> DistillationTerm:
    return _importance(f"e{level}", student.encoder[level - 1], teacher.encoder[-1], loss, weight)


def _prediction(
    name: str, student: str | Sequence[str], teacher: str | Sequence[str], loss: PredictionMapLoss, weight: float
) -> DistillationTerm:
    return DistillationTerm(f"prediction_{name}", loss, student, teacher, weight, adapter=ChannelAdapter)


def _output(student: Taps, teacher: Taps, loss: PredictionMapLoss, weight: float) -> DistillationTerm:
    return DistillationTerm("prediction_output", loss, student.head, teacher.head, weight)
