"""Semi-synthetic KiTS19: the published label maps with simulated CT intensities, for when there are no images.

``python -m monai_kd.data.ct_simulator LABELS_DIR OUTPUT_DIR`` writes them; :func:`simulate_kits` is the same in Python.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
from tqdm import tqdm

from monai_kd.data.ct_intensities import GENERATION, simulate_ct
from monai_kd.errors import user_message

_NOTICE = "SEMI_SYNTHETIC.txt"
_TEXT = """SEMI-SYNTHETIC DATA, NOT CT.

imaging.nii.gz: simulated intensities (monai_kd.data.ct_simulator, generation {generation}, seed {seed}), a plausible
picture drawn around the label map and no physical model. segmentation.nii.gz: label maps of KiTS19, unchanged.

No result on these volumes says anything about clinical CT; call every one of them semi-synthetic.

The label maps are licensed CC BY-NC-SA 4.0 (https://creativecommons.org/licenses/by-nc-sa/4.0/), and so are these
volumes, which are made from them. Cite: Heller et al., The KiTS19 Challenge Data, 2019,
https://arxiv.org/abs/1904.00445
"""


def simulate_kits(
    labels_dir: str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    seed: int = 0,
    ids: Sequence[int] | None = None,
    progress: bool = True,
) -> str:
    """Write semi-synthetic cases in the KiTS19 layout: published label maps with intensities of :func:`simulate_ct`.

    Each case has its own seed, so it is the same whichever others are written. Cases that are there already are left
    as they are: an interrupted call continues, and a later one adds cases. ``SEMI_SYNTHETIC.txt`` says what they are.

    Args:
        labels_dir: KiTS19 label maps, as ``case_00000/segmentation.nii.gz`` or ``case_00000.nii.gz``, at any spacing.
        output_dir: folder for ``case_00000/imaging.nii.gz`` and ``segmentation.nii.gz``, new, empty or of an earlier
            call with the same seed.
        seed: of all cases.
        ids: numbers of the cases, all in ``labels_dir`` if not given.
        progress: show a progress bar.

    Returns:
        ``output_dir``.

    Raises:
        FileNotFoundError: no label maps, or not those of ``ids``.
        FileExistsError: ``output_dir`` holds something else, or cases of another seed.
        ValueError: a label map cannot be used; its path is in the message.
    """
    found = _label_maps(Path(labels_dir))
    wanted = sorted(found) if ids is None else sorted(set(ids))
    if missing := [f"case_{number:05d}" for number in wanted if number not in found]:
        raise FileNotFoundError(f"{labels_dir} has {len(found)} label maps, but not {', '.join(missing)}.")
    target = Path(output_dir)
    _prepare(target, _TEXT.format(generation=GENERATION, seed=seed))
    for number in tqdm(wanted, desc="simulating", unit="case", disable=not progress):
        folder = target / f"case_{number:05d}"
        image, label = folder / "imaging.nii.gz", folder / "segmentation.nii.gz"
        if image.is_file() and label.is_file():
            continue
        try:
            volume = nib.Nifti1Image.from_filename(found[number])
            axcodes = "".join(nib.orientations.aff2axcodes(volume.affine))
            spacing = volume.header.get_zooms()
            values = simulate_ct(np.asanyarray(volume.dataobj), spacing, [seed, number], "kidney", axcodes)
        except (ValueError, OSError, EOFError, zlib.error, nib.filebasedimages.ImageFileError) as error:
            raise ValueError(f"{found[number]}: {error}") from error
        folder.mkdir(exist_ok=True)
        with _whole_file(label) as draft:
            shutil.copyfile(found[number], draft)
        with _whole_file(image) as draft:
            nib.save(nib.Nifti1Image(values, volume.affine), draft)
    return str(output_dir)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m monai_kd.data.ct_simulator",
        description="Write semi-synthetic CT in the KiTS19 layout: the published label maps (licence CC BY-NC-SA 4.0) "
        "with simulated intensities. No result on them says anything about clinical CT. Cases that exist are kept, so "
        "an interrupted run continues when it is started again.",
    )
    parser.add_argument("labels_dir", help="folder of case_*/segmentation.nii.gz or case_*.nii.gz")
    parser.add_argument("output_dir", help="folder to write: new, empty, or begun with the same seed")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other images (default: %(default)s)")
    parser.add_argument(
        "--ids", type=int, nargs="+", metavar="ID", help="case numbers, such as 0 1 17 (default: all that are found)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    try:
        simulate_kits(options.labels_dir, options.output_dir, options.seed, options.ids, progress=not options.quiet)
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        print(f"error: {message}", file=sys.stderr)
        return 1
    return 0


def _label_maps(folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}.")
    found = {}
    for path in sorted(folder.glob("case_*")):
        if match := re.fullmatch(r"case_(\d{5})(\.nii\.gz)?", path.name):
            path = path if match[2] else path / "segmentation.nii.gz"
            if path.is_file():
                found[int(match[1])] = path
    if not found:
        raise FileNotFoundError(f"{folder} holds neither case_*/segmentation.nii.gz nor case_*.nii.gz.")
    return found


def _prepare(target: Path, text: str) -> None:
    """The folder with its notice, which also says with which seed it was begun."""
    notice = target / _NOTICE
    if notice.is_file():
        if notice.read_text(encoding="utf-8") != text:
            raise FileExistsError(f"{target} was begun with another seed or version, see {_NOTICE}; give a new folder.")
        return
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target} exists and was not simulated here; give a new or an empty folder.")
    target.mkdir(parents=True, exist_ok=True)
    with _whole_file(notice) as draft:
        draft.write_text(text, encoding="utf-8")


@contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """A path to write to that becomes ``path`` only if nothing fails."""
    with TemporaryDirectory(dir=path.parent, prefix=".draft-") as folder:
        draft = Path(folder, path.name)
        yield draft
        draft.replace(path)


if __name__ == "__main__":
    sys.exit(main())
