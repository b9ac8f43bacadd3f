"""Data lists of polyp segmentation sets in their published folder layouts."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from monai_kd.data._splits import Pair, check_fractions, content_keys, keep_labels, share, split_off, to_items

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"}
_LAYOUTS = (
    "known layouts are Kvasir-SEG (images/ and masks/) and PraNet "
    "(TrainDataset/ with image(s)/ and mask(s)/, TestDataset/<set>/ with images/ and masks/)"
)
_UNION = "test"


def polyp_datalist(
    root: str | os.PathLike[str],
    seed: int = 0,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    labelled_fraction: float = 1.0,
) -> dict[str, list[dict[str, str]]]:
    """Training, validation and test items of a polyp data set, as a MONAI data list.

    Two layouts are known. Kvasir-SEG is one folder, split here in three. PraNet comes split: validation is taken
    from ``TrainDataset`` alone, ``test_fraction`` is not used, and each test set is also listed as ``"test:<set>"``.
    A test folder named ``test`` that only repeats the other sets is left out, one that holds more counts for what
    the others lack.

    Splits depend on ``seed``, file names and contents, never on the order in which the system lists files. Images with
    the same bytes stay in one split; near duplicates (the next frame of a video) are not recognised. A PraNet training
    image that is also in a test set is left out of training and validation, with a warning.

    Args:
        root: folder with one of the layouts.
        seed: of the splits and of the labelled subset.
        val_fraction: share of a Kvasir-SEG folder, or of ``TrainDataset``, used for validation, 0 for none.
        test_fraction: share of a Kvasir-SEG folder used for test, 0 for none.
        labelled_fraction: share of the training items that keep ``"label"``, at least one item. Subsets of one seed are
            nested: the 10 % that are labelled are among the 25 %. The splits do not depend on it.

    Returns:
        ``{"training": items, "validation": items, "test": items}``, items ``{"image": path, "label": path}`` sorted
        by path. Unlabelled training items have no ``"label"``.

    Raises:
        FileNotFoundError: ``root`` is not a folder or has none of the layouts.
        ValueError: images without mask, masks without image or names used twice (all are listed), a fraction out of
            range, or too few images for the splits asked for.

    Example:
        >>> import tempfile
        >>> from monai_kd.data import make_polyp_frames
        >>> root = make_polyp_frames(tempfile.mkdtemp() + "/frames", count=10, size=(48, 64))
        >>> data = polyp_datalist(root, val_fraction=0.2, test_fraction=0.2, labelled_fraction=0.5)
        >>> [len(data[key]) for key in ("training", "validation", "test")]
        [6, 2, 2]
        >>> sum("label" in item for item in data["training"])
        3
    """
    check_fractions(val_fraction, test_fraction, labelled_fraction)
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"no such folder: {root}; {_LAYOUTS}.")
    order = np.random.default_rng([seed, 0])
    if (root / "TrainDataset").is_dir():
        train, tests = _read_pranet(root)
        test = [pair for pairs in tests.values() for pair in pairs]
        train = _without(train, test)
        wanted = share(val_fraction, train)
    else:
        if _folders(root) is None:
            raise FileNotFoundError(f"{root} holds {_listing(root)}; {_LAYOUTS}.")
        train, tests = _read({"": root})[""], {}
        wanted = share(val_fraction, train)
        test, train = split_off(train, share(test_fraction, train), order)
    validation, train = split_off(train, wanted, order)
    if not train:
        raise ValueError(f"no training image left in {root} after validation and test were taken; lower the fractions.")

    items = {"training": to_items(train), "validation": to_items(validation), "test": to_items(test)}
    items.update({f"test:{name}": to_items(pairs) for name, pairs in tests.items()})
    keep_labels(items["training"], labelled_fraction, seed)
    return items


def _read_pranet(root: Path) -> tuple[list[Pair], dict[str, list[Pair]]]:
    test_root = root / "TestDataset"
    if not test_root.is_dir():
        raise FileNotFoundError(f"{root} has TrainDataset/ but no TestDataset/; {_LAYOUTS}.")
    roots = {path.name: path for path in sorted(test_root.iterdir()) if path.is_dir() and not path.name.startswith(".")}
    if not roots:
        raise FileNotFoundError(f"{test_root} holds no test set; {_LAYOUTS}.")
    missing = [str(path) for path in (root / "TrainDataset", *roots.values()) if _folders(path) is None]
    if missing:
        raise FileNotFoundError(f"no image(s)/ with mask(s)/ in {', '.join(missing)}; {_LAYOUTS}.")
    # "" is no folder name, so it cannot meet a test set's.
    sets = _read({"": root / "TrainDataset", **roots})
    train = sets.pop("")
    if _UNION in sets and len(sets) > 1:
        union = sets.pop(_UNION)
        others = {pair.content for pairs in sets.values() for pair in pairs}
        rest = [pair for pair in union if pair.content not in others]
        if rest:
            sets[_UNION] = rest
    return train, sets


def _without(train: list[Pair], test: list[Pair]) -> list[Pair]:
    held_out = {pair.content for pair in test}
    leaks = [str(pair.image) for pair in train if pair.content in held_out]
    if leaks:
        warnings.warn(
            f"{len(leaks)} training images are also in a test set and are left out: {', '.join(leaks)}.", stacklevel=3
        )
    return [pair for pair in train if pair.content not in held_out]


def _read(roots: dict[str, Path]) -> dict[str, list[Pair]]:
    """Pairs of every folder, sorted by path; all that is wrong in any of them is raised at once."""
    problems: list[str] = []
    found: dict[str, list[tuple[Path, Path]]] = {}
    for name, root in roots.items():
        image_dir, mask_dir = _folders(root) or (root / "images", root / "masks")
        images, masks = _by_stem(image_dir, problems), _by_stem(mask_dir, problems)
        problems += [f"image without mask: {images[stem]}" for stem in sorted(images.keys() - masks.keys())]
        problems += [f"mask without image: {masks[stem]}" for stem in sorted(masks.keys() - images.keys())]
        if not images and not masks:
            problems.append(f"no image in {image_dir}")
        found[name] = sorted((images[stem], masks[stem]) for stem in images.keys() & masks.keys())
    if problems:
        raise ValueError("images and masks do not match:\n" + "\n".join(problems))
    content = content_keys(image for pairs in found.values() for image, _ in pairs)
    return {name: [Pair(image, mask, content[image]) for image, mask in pairs] for name, pairs in found.items()}


def _folders(root: Path) -> tuple[Path, Path] | None:
    for image_dir in ("images", "image"):
        for mask_dir in ("masks", "mask"):
            if (root / image_dir).is_dir() and (root / mask_dir).is_dir():
                return root / image_dir, root / mask_dir
    return None


def _by_stem(folder: Path, problems: list[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in sorted(_image_files(folder)):
        if path.stem in files:
            problems.append(f"name used twice: {files[path.stem]} and {path.name}")
        files.setdefault(path.stem, path)
    return files


def _image_files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith("."):
            yield path


def _listing(root: Path) -> str:
    names = sorted(path.name for path in root.iterdir())
    return ", ".join(names[:8] + ["..."] * (len(names) > 8)) or "nothing"
