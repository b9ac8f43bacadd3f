"""A file or a folder through an exported student, with loading, inference and saving overlapped."""

from __future__ import annotations

import csv
import io
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from monai_kd._files import inside, write_whole
from monai_kd._tables import as_text
from monai_kd.runtime.description import ExportError
from monai_kd.runtime.exported import ExportedModel
from monai_kd.runtime.pictures import PictureStudent
from monai_kd.runtime.volumes import LoadedVolume, VolumeStudent

__all__ = ["Prediction", "open_student", "predict"]

_WAITING = 2  # cases loaded ahead, and cases not yet saved
TABLE = "classes.csv"


@dataclass(frozen=True)
class Prediction:
    """What became of the cases.

    Attributes:
        written: the file of each case that is done: its mask, or the table of all.
        failed: the reason of each that is not.
    """

    written: dict[Path, Path] = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)


def predict(
    model: ExportedModel,
    source: str | Path,
    output: str | Path,
    exact_borders: bool | None = None,
    coarse_spacing: float | None = None,
    margin: float = 20.0,
    progress: bool = False,
) -> Prediction:
    """Masks, or a table of class probabilities, of one file or of all files in a folder and its subfolders.

    Volumes (``.nii``, ``.nii.gz``) give ``<name>_seg.nii.gz``, pictures ``<name>.png``, each in the subfolder that its
    case is in; a classification gives one ``classes.csv``. Every file is written whole or not at all, and one of an
    earlier run is replaced. Hidden files are passed over. While one case is in the network, the next is loaded and the
    one before is saved. A case that cannot be done does not stop the others.

    Args:
        model: see :func:`load_exported`.
        source: a file, or a folder.
        output: a folder; made where it does not exist.
        exact_borders, coarse_spacing, margin: of volumes, see :class:`VolumeStudent`.
        progress: show a progress bar on standard error.

    Raises:
        FileNotFoundError: nothing at ``source``, or nothing in it that the student can read.
        ExportError: the exported folder does not say what is done around the network.
        ValueError: ``output`` is ``source``, or an option that the student does not have.
    """
    student = open_student(model, exact_borders, coarse_spacing, margin)
    root, folder = Path(source), Path(output)
    cases = _cases(root, folder, student.endings)
    base = root if root.is_dir() else root.parent
    result = Prediction()
    if isinstance(student, PictureStudent) and student.classifies:
        rows: dict[Path, np.ndarray] = {}
        work = _Work(student, lambda case, probabilities, _: rows.update({case: probabilities}), result, progress)
        work.run(cases)
        if rows:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / TABLE, _table(rows, base, student.class_names))
        result.written.update(dict.fromkeys(rows, folder / TABLE))
        return result
    targets = _targets(cases, base, folder, student, result)

    def save(case: Path, mask: np.ndarray, loaded: Any) -> None:
        inside(folder, targets[case])
        targets[case].parent.mkdir(parents=True, exist_ok=True)
        student.save(mask, loaded, targets[case])
        result.written[case] = targets[case]

    _Work(student, save, result, progress).run(list(targets))
    return result


def open_student(
    model: ExportedModel,
    exact_borders: bool | None = None,
    coarse_spacing: float | None = None,
    margin: float = 20.0,
) -> VolumeStudent | PictureStudent:
    """What loads, answers for and saves one case, as the exported folder's pipeline says.

    Raises:
        ExportError: the folder has no pipeline, or an unknown one.
        ValueError: an option that the student does not have.
    """
    export = model.description
    if export.pipeline is None:
        raise ExportError(
            f"'{export.folder}' does not say what is done around the network"
            f"{f' ({export.pipeline_refused})' if export.pipeline_refused else ''}; run the bundle's inference.json "
            "with inference_runtime.json instead."
        )
    kind = export.pipeline.get("kind")
    if kind == "volume" and export.task == "segmentation":
        return VolumeStudent(model, exact_borders, coarse_spacing, margin)
    if kind != "picture":
        raise ExportError(
            f"'{export.folder}' has a pipeline of the kind {kind!r} for a {export.task}; update monai_kd."
        )
    if exact_borders is not None or coarse_spacing is not None:
        raise ValueError("exact borders and a coarse spacing are for volumes; this student is for pictures.")
    return PictureStudent(model)


class _Work:
    """Cases through load, infer and save: the network in this thread, one thread to load and one to save."""

    def __init__(
        self,
        student: VolumeStudent | PictureStudent,
        save: Callable[[Path, np.ndarray, Any], None],
        result: Prediction,
        progress: bool,
    ) -> None:
        self.student: Any = student
        self.save = save
        self.failed = result.failed
        self.progress = progress

    def run(self, cases: list[Path]) -> None:
        saving: deque[tuple[Path, Future[None]]] = deque()
        bar = tqdm(total=len(cases), unit="case", disable=not self.progress)
        with ThreadPoolExecutor(1) as loader, ThreadPoolExecutor(1) as saver, bar:
            try:
                for case, loading in _ahead(loader, self.student.load, cases):
                    loaded = self._try(case, loading.result)
                    found = None if loaded is None else self._try(case, partial(self._infer, loaded, case.name))
                    if found is None:
                        bar.update()
                    else:
                        if isinstance(loaded, LoadedVolume):
                            loaded = loaded.without_voxels()  # masks that wait to be saved keep no images
                        saving.append((case, saver.submit(self.save, case, found, loaded)))
                    del loading, loaded, found  # not kept in memory while the next is in the network
                    while len(saving) > _WAITING or (saving and saving[0][1].done()):
                        self._finish(*saving.popleft(), bar)
                while saving:
                    self._finish(*saving.popleft(), bar)
            except BaseException:  # Ctrl-C: what waits is dropped, what is being written is finished
                loader.shutdown(wait=False, cancel_futures=True)
                saver.shutdown(wait=False, cancel_futures=True)
                raise

    def _infer(self, loaded: Any, name: str) -> np.ndarray:
        if not isinstance(self.student, VolumeStudent):
            return np.asarray(self.student.infer(loaded))

        def windows(boxes: Iterable[Any]) -> Iterable[Any]:
            return tqdm(boxes, desc=name, unit="window", leave=False, disable=not self.progress)

        return self.student.infer(loaded, windows)

    def _finish(self, case: Path, saved: Future[None], bar: tqdm[Any]) -> None:
        self._try(case, saved.result)
        bar.update()

    def _try(self, case: Path, step: Callable[[], Any]) -> Any:
        try:
            return step()
        except Exception as error:  # whatever is wrong with a case, the others are done
            said = str(error).strip()
            expected = said and isinstance(error, (OSError, ValueError, ArithmeticError))
            self.failed[case] = said if expected else f"{type(error).__name__}: {said}"
            return None


def _ahead(
    loader: ThreadPoolExecutor, load: Callable[[Path], Any], cases: list[Path]
) -> Iterator[tuple[Path, Future[Any]]]:
    """Each case with its loading, begun one or two cases before."""
    waiting: deque[tuple[Path, Future[Any]]] = deque()
    for case in cases:
        waiting.append((case, loader.submit(load, case)))
        if len(waiting) == _WAITING:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def _cases(source: Path, output: Path, endings: tuple[str, ...]) -> list[Path]:
    if source.is_file():
        if not source.name.lower().endswith(endings):
            raise ValueError(f"'{source}' is not a file of this student's kind; expected {', '.join(endings)}.")
        return [source]
    if not source.is_dir():
        raise FileNotFoundError(f"no file or folder '{source}'; give what to predict.")
    made = output.resolve()
    if made == source.resolve():
        raise ValueError(f"the output folder is the input folder, '{source}'; give another.")
    found = []
    for folder, subfolders, names in os.walk(source):
        # Not what an earlier run has written into a folder in this one.
        subfolders[:] = sorted(
            name for name in subfolders if not name.startswith(".") and Path(folder, name).resolve() != made
        )
        found += [
            Path(folder, name) for name in sorted(names) if name.lower().endswith(endings) and not name.startswith(".")
        ]
    if not found:
        raise FileNotFoundError(f"no file in '{source}' ends in {', '.join(endings)}; give another folder.")
    return found


def _targets(
    cases: list[Path], base: Path, output: Path, student: VolumeStudent | PictureStudent, result: Prediction
) -> dict[Path, Path]:
    """Where the mask of each case goes; cases that have no place of their own are reported."""
    places: dict[Path, list[Path]] = {}
    for case in cases:
        ending = next(ending for ending in student.endings if case.name.lower().endswith(ending))
        name = case.name[: len(case.name) - len(ending)] + student.postfix
        places.setdefault(output / case.parent.relative_to(base) / name, []).append(case)
    inputs = {_identity(case) for case in cases if case.exists()}
    targets = {}
    for target, owners in places.items():
        reason = None
        if len(owners) > 1:
            reason = f"{', '.join(owner.name for owner in owners)} would share the mask '{target.name}'; rename them"
        elif target.exists() and _identity(target) in inputs:
            reason = f"'{target}' is a file to be read, it is not overwritten; give another output folder"
        if reason is None:
            targets[owners[0]] = target
        else:
            result.failed.update(dict.fromkeys(owners, reason))
    return targets


def _identity(path: Path) -> tuple[int, int]:
    """The same for all names of a file."""
    found = path.stat()
    return found.st_dev, found.st_ino


def _table(rows: dict[Path, np.ndarray], base: Path, names: tuple[str, ...]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "class", *names])
    for case, row in rows.items():
        name = as_text(case.relative_to(base).as_posix())
        writer.writerow([name, names[int(row.argmax())], *(f"{value:.6g}" for value in row)])
    return text.getvalue()
