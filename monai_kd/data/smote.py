"""Synthetic pictures of rare classes, each between two pictures of its class (SMOTE)."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.data.dataset import CacheDataset
from tqdm import tqdm

from monai_kd.data.class_checks import label_problem

__all__ = ["smote_items"]

# New pictures at a time: imbalanced-learn interpolates in float64 and keeps what it was given beside what it makes.
_BLOCK = 512
_logger = logging.getLogger(__name__)


def smote_items(
    items: Sequence[Mapping[str, Any]],
    transform: Callable[[Any], Any],
    class_names: Sequence[str],
    targets: Mapping[str, int] | None = None,
    k_neighbors: int = 5,
    seed: int = 0,
    image_key: str = "image",
    label_key: str = "label",
    progress: bool = False,
) -> list[dict[str, Any]]:
    """SMOTE [0] on pixels: new pictures of the classes that have fewer than the largest, without a file.

    Each is ``a + u * (b - a)``: a picture ``a``, one of its ``k_neighbors`` nearest of the same class ``b``, and ``u``
    uniform in [0, 1); in float, then rounded to 8 bits. Between two pictures nothing leaves their range.

    The new pictures stay in memory, at one byte a value; a logged line says what they take. While those of a class are
    made, its own are there in float32, twice, and the next 512 new ones in float64.

    [0] Chawla et al., SMOTE: Synthetic Minority Over-sampling Technique, 2002, https://arxiv.org/abs/1106.1813

    Args:
        items: the **training** items of one fold, such as ``ham10000_datalist(root)["training"]``; others would leak
            into training. Items without ``label_key`` are passed over: their class is not known.
        transform: reads an item; ends with a picture of 8 bits, (C, H, W), the same size for all, before any
            augmentation.
        class_names: in the order of the labels.
        targets: how many pictures of a class there shall be **in all**, by name; classes that are not named get none.
            ``None``: of each as many as of the largest.
        k_neighbors: how many of the nearest pictures may be the second end, 1 or more.
        seed: of what is drawn. The same items in the same order give the same pictures.
        image_key: key of the picture.
        label_key: key of the class, an integer from 0.
        progress: show progress bars.

    Returns:
        The synthetic items alone, ``{"image": uint8 array (C, H, W), "label": int}``, by class.

    Raises:
        ImportError: imbalanced-learn is not installed.
        ValueError: a label that is no class; an unknown class in ``targets``, or a target below what there is; classes
            with ``k_neighbors`` pictures or fewer; pictures that are not of 8 bits or differ in size; ``k_neighbors``
            or ``seed`` out of range.

    Example:
        >>> pictures = [np.full((3, 8, 8), 10 * n, dtype=np.uint8) for n in range(9)]
        >>> items = [{"image": picture, "label": int(n > 5)} for n, picture in enumerate(pictures)]
        >>> made = smote_items(items, dict, ["naevus", "melanoma"], k_neighbors=2)
        >>> [item["label"] for item in made], made[0]["image"].shape, bool(made[0]["image"].min() >= 60)
        ([1, 1, 1], (3, 8, 8), True)
    """
    if k_neighbors < 1:
        raise ValueError(f"k_neighbors must be 1 or more, got {k_neighbors}.")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}.")
    _smote()  # what is missing is said before anything is read
    members = _by_class(items, class_names, label_key)
    counts = [len(found) for found in members]
    missing = _missing(counts, targets, class_names)
    if few := [f"{class_names[label]} {counts[label]}" for label in missing if counts[label] <= k_neighbors]:
        raise ValueError(
            f"classes with too few labelled pictures for k_neighbors={k_neighbors}, which needs one more than that: "
            f"{', '.join(few)}; lower k_neighbors, label more pictures, or leave these classes out with targets."
        )
    if not missing:
        _logger.info("SMOTE adds no picture: every class has as many as it shall have.")
        return []
    pictures = _pictures([item for label in missing for item in members[label]], transform, image_key, progress)
    memory = sum(missing.values()) * pictures[0].nbytes / 1e6
    added = ", ".join(f"{number} {class_names[label]}" for label, number in missing.items())
    _logger.info(f"SMOTE adds {added}; they take {memory:,.1f} MB of memory.")

    made = []
    ends = np.cumsum([counts[label] for label in missing])
    with tqdm(total=sum(missing.values()), desc="SMOTE", disable=not progress) as bar:
        for (label, number), given in zip(missing.items(), np.split(pictures, ends[:-1])):
            for start in range(0, number, _BLOCK):
                size = min(_BLOCK, number - start)
                state = int(np.random.SeedSequence([seed, label, start]).generate_state(1)[0])
                made += [
                    {image_key: picture, label_key: label} for picture in _sampled(given, size, k_neighbors, state)
                ]
                bar.update(size)
    return made


def _by_class(
    items: Sequence[Mapping[str, Any]], class_names: Sequence[str], label_key: str
) -> list[list[Mapping[str, Any]]]:
    members: list[list[Mapping[str, Any]]] = [[] for _ in class_names]
    for item in items:
        if (label := item.get(label_key)) is None:
            continue
        if problem := label_problem(label, len(class_names)):
            raise ValueError(f"{problem}; check_classes lists every item of which this is true.")
        members[label].append(item)
    return members


def _missing(counts: Sequence[int], targets: Mapping[str, int] | None, class_names: Sequence[str]) -> dict[int, int]:
    """How many pictures to make of each class, those without left out."""
    if targets is None:
        targets = dict.fromkeys(class_names, max(counts))
    if unknown := [name for name in targets if name not in class_names]:
        raise ValueError(f"targets names {_listed(unknown)}, which is none of the classes {', '.join(class_names)}.")
    has = dict(zip(class_names, counts))
    if less := [f"{name} {total} of {has[name]}" for name, total in targets.items() if total < has[name]]:
        raise ValueError(
            f"targets below what there is: {', '.join(less)}; a target is the number of pictures of a class in all, "
            "those of files included, and SMOTE takes none away."
        )
    totals = {class_names.index(name): total for name, total in targets.items()}
    return {label: totals[label] - counts[label] for label in sorted(totals) if totals[label] > counts[label]}


def _pictures(
    items: Sequence[Mapping[str, Any]], transform: Callable[[Any], Any], image_key: str, progress: bool
) -> np.ndarray:
    """All of them, uint8 (N, C, H, W)."""
    threads = min(8, os.cpu_count() or 1)
    read = CacheDataset(items, transform, num_workers=threads, progress=progress, copy_cache=False)
    found = [np.asarray(read[index][image_key]) for index in range(len(items))]
    if kinds := {str(picture.dtype) for picture in found} - {"uint8"}:
        raise ValueError(
            f"SMOTE takes pictures of 8 bits, got {_listed(kinds)}; let transform end with uint8, before normalising."
        )
    if len(shapes := {picture.shape for picture in found}) > 1:
        raise ValueError(f"pictures differ in shape: {_listed(shapes)}; let transform resize them all to one size.")
    return np.stack(found)


def _sampled(pictures: np.ndarray, number: int, k_neighbors: int, seed: int) -> np.ndarray:
    """New pictures of the class that these are of, uint8 (number, C, H, W)."""
    # A class alone is refused. SMOTE looks at nothing but the class, so that one row stands for all others.
    rows = np.zeros((len(pictures) + 1, pictures[0].size), dtype=np.float32)
    rows[:-1] = pictures.reshape(len(pictures), -1)
    labels = np.ones(len(rows), dtype=int)
    labels[-1] = 0
    sampler = _smote()(sampling_strategy={1: len(pictures) + number}, random_state=seed, k_neighbors=k_neighbors)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="After over-sampling")
        everything, _ = sampler.fit_resample(rows, labels)
    return np.rint(everything[len(rows) :]).astype(np.uint8).reshape(-1, *pictures.shape[1:])


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(sorted(map(str, values)))


def _smote() -> Any:
    try:
        from imblearn.over_sampling import SMOTE
    except ImportError as error:
        raise ImportError('SMOTE needs imbalanced-learn: pip install "monai-kd[smote]"') from error
    return SMOTE
