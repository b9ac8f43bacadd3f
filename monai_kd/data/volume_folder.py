"""A folder of volumes, to be run through a network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from monai_kd.data._volume_files import NIFTI, by_name, visible_files

__all__ = ["volume_datalist"]

_SUFFIXES = (*NIFTI, ".nrrd", ".mha")
_EXPECTED = f"expected {', '.join(_SUFFIXES)} files right in it, or DICOM files in it or its subfolders"


def volume_datalist(dataset_dir: str | os.PathLike[str]) -> list[dict[str, str]]:
    """The volumes of a folder, sorted by path, as a MONAI data list.

    Every ``.nii``, ``.nii.gz``, ``.nrrd`` and ``.mha`` file right in the folder is one volume, and so is every folder,
    at any depth, that holds the files of a DICOM series: files that end in ``.dcm`` or say ``DICM`` at byte 128.
    Hidden files are passed over.

    Args:
        dataset_dir: the folder, or one volume: a file or the folder of a series.

    Returns:
        ``[{"image": path}, ...]``; the path of a series is its folder, which ``LoadImaged`` reads as one volume.

    Raises:
        FileNotFoundError: there is no such folder, or no volume in it.
        ValueError: volumes whose results would be saved under one name, such as ``x.nii`` and ``x.nii.gz`` (of which
            ITK moreover may read the other), or a folder with several DICOM series, of which only one would be read.

    Example:
        >>> volume_datalist("nowhere")
        Traceback (most recent call last):
        FileNotFoundError: no file or folder 'nowhere'; give the folder that holds the volumes.
    """
    root = Path(dataset_dir)
    if not root.exists():
        raise FileNotFoundError(f"no file or folder '{dataset_dir}'; give the folder that holds the volumes.")
    if root.is_file():
        if not root.name.lower().endswith(_SUFFIXES) and not _is_dicom(root):
            raise ValueError(f"'{root}' is no volume; expected {', '.join(_SUFFIXES)} or a DICOM file.")
        return [{"image": str(root)}]
    series = list(_series(root))
    paths = sorted([*visible_files(root, _SUFFIXES), *series])
    if not paths:
        raise FileNotFoundError(f"no volume in '{root}'; {_EXPECTED}.")
    problems: list[str] = []
    by_name(paths, problems)
    problems += [f"{count} DICOM series in one folder: {path}" for path in series if (count := _count_series(path)) > 1]
    if problems:
        raise ValueError(
            "rename or move files so that each volume has its own name and each series its own folder:\n"
            + "\n".join(problems)
        )
    return [{"image": str(path)} for path in paths]


def _series(root: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        # A DICOMDIR is a table of contents: it has the magic bytes and no image.
        files = (Path(folder, name) for name in names if not name.startswith(".") and name.lower() != "dicomdir")
        if any(_is_dicom(path) for path in files):
            yield Path(folder)


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() == ".dcm":
        return True
    try:
        with path.open("rb") as file:
            file.seek(128)
            return file.read(4) == b"DICM"
    except OSError:
        return False


def _count_series(folder: Path) -> int:
    import SimpleITK  # takes long to import and is only needed for DICOM

    return len(SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(str(folder), useSeriesDetails=True))
