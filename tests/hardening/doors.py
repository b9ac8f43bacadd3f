"""The places where a user's file comes in, each called as a user calls it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from . import checkpoints, configurations, lists, records, students
from .inputs import Input
from .outcome import HANDLED, Outcome, WrongResult, refused, refused_by

Door = Callable[[Input, Any, Path], Outcome]
DOORS: dict[str, dict[str, Door]] = {}


def door(name: str, *kinds: str) -> Callable[[Door], Door]:
    """Registers a door of these kinds of inputs."""

    def add(function: Door) -> Door:
        for kind in kinds:
            DOORS.setdefault(kind, {})[name] = function
        return function

    return add


def doors_of(one: Input) -> list[str]:
    """The doors that an input is brought to."""
    return [name for name in DOORS[one.kind] if one.only is None or name in one.only]


def bring(one: Input, name: str, watch: Callable[[], Any] = contextlib.nullcontext) -> Outcome:
    """Make the input, bring it to a door, within ``watch()``, and say what became of it."""
    with tempfile.TemporaryDirectory(prefix="hardening-") as made:
        root = Path(made)
        root.chmod(0o777)
        for folder in ("in", "out"):
            (root / folder).mkdir()
            (root / folder).chmod(0o777)
        path = one.write(root / "in")
        try:
            with watch(), contextlib.redirect_stderr(io.StringIO()), nothing_runs(root / "out"):
                return DOORS[one.kind][name](one, path, root / "out")
        except Exception as error:
            return refused_by(error, *_names(path))


@contextlib.contextmanager
def nothing_runs(folder: Path) -> Iterator[None]:
    """Within, code of a checkpoint and the program that Pillow starts would leave a folder behind."""
    before, programs = Path.cwd(), os.environ["PATH"]
    os.chdir(folder)
    os.environ["PATH"] = f"{_programs()}{os.pathsep}{programs}"
    try:
        yield
    finally:
        os.chdir(before)
        os.environ["PATH"] = programs
        if (folder / checkpoints.SENTINEL).exists():
            raise WrongResult("code in it was executed")


@cache
def _programs() -> Path:
    """A folder of programs, made once a process."""
    folder = Path(tempfile.mkdtemp(prefix="programs-"))
    (folder / "gs").write_text(f"#!/bin/sh\nmkdir {checkpoints.SENTINEL}\n", encoding="utf-8")
    (folder / "gs").chmod(0o755)
    return folder


def _names(path: Any) -> list[str]:
    return [path.name, str(path)] if isinstance(path, Path) else []


def command(words: Sequence[Any], *names: str) -> Outcome:
    """The command line with these words: handled where its status is 0."""
    from monai_kd.cli.app import run

    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)  # as a terminal's is
    errors = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
        status = run([str(word) for word in words])
    shown, wrong = (stream.buffer.getvalue().decode() for stream in (said, errors))
    if status == 0:
        return Outcome(HANDLED, shown)
    found = refused(wrong + shown, *names)
    return found if status in (1, 2) else Outcome("unclear", f"status {status}: {found.said}")


def of_report(report: Any, *names: str) -> Outcome:
    """A check's report: refused where it has errors, which name the file."""
    if not report.errors:
        return Outcome(HANDLED, str(report))
    return refused("; ".join(str(case) for case in report.errors), *names)


# Pictures.


@door("check_datalist", "picture")
def _check_datalist(one: Input, path: Path, out: Path) -> Outcome:
    from monai_kd.data import check_datalist

    return of_report(check_datalist([{"image": str(path)}]), str(path))


@door("check_classes", "picture")
def _check_classes(one: Input, path: Path, out: Path) -> Outcome:
    from monai_kd.data import check_classes

    return of_report(check_classes([{"image": str(path), "label": 0}], num_classes=1), str(path))


@door("near_duplicate_groups", "picture")
def _near_duplicates(one: Input, path: Path, out: Path) -> Outcome:
    from monai_kd.data import near_duplicate_groups

    near_duplicate_groups([path])
    return Outcome(HANDLED)


@door("monai-kd check", "picture")
def _check_command(one: Input, path: Path, out: Path) -> Outcome:
    (out / "list.json").write_text(json.dumps({"training": [{"image": str(path)}]}), encoding="utf-8")
    return command(["check", out / "list.json"], str(path))


# Volumes.


@door("check_volumes", "volume")
def _check_volumes(one: Input, path: Path, out: Path) -> Outcome:
    from monai_kd.data import check_volumes

    return of_report(check_volumes([{"image": str(path)}], (0,), None, hounsfield=False), str(path))


@door("monai-kd check", "volume")
def _check_volumes_command(one: Input, path: Path, out: Path) -> Outcome:
    (out / "list.json").write_text(json.dumps({"training": [{"image": str(path)}]}), encoding="utf-8")
    return command(["check", out / "list.json"], str(path))


# Masks and label maps, each beside a good image.


@door("check_datalist", "mask")
def _check_mask(one: Input, path: Path, out: Path) -> Outcome:
    from monai_kd.data import check_datalist

    return of_report(check_datalist([_pair(path, out)]), str(path))


@door("check_volumes", "label map")
def _check_label_map(one: Input, path: Path, out: Path) -> Outcome:
    from monai_kd.data import check_volumes

    return of_report(check_volumes([_pair(path, out)], (0, 1, 2), 2), str(path))


@door("monai-kd check", "mask", "label map")
def _check_pair_command(one: Input, path: Path, out: Path) -> Outcome:
    (out / "list.json").write_text(json.dumps({"training": [_pair(path, out)]}), encoding="utf-8")
    values = [word for value in (0, 1, 2) for word in ("--label-value", value)] if one.kind == "label map" else []
    return command(["check", out / "list.json", *values], str(path))


def _pair(path: Path, out: Path) -> dict[str, str]:
    from . import pictures, volumes

    volume = "nii" in path.name[-8:]
    image = out / ("image.nii" if volume else "image.png")
    _write_plain(image, volumes.plain() if volume else pictures.pixels())
    return {"image": str(image), "label": str(path)}


# Data lists and tables.


@door("monai-kd check", "data list", "item")
def _check_list(one: Input, path: Path, out: Path) -> Outcome:
    words = ["--classes", 2] if one.kind == "item" else []
    return command(["check", path, *words], path.name, "item 0: ", "item 1: ")


@door("data list", "table of classes", "table of splits", "table of groups")
def _datalist(one: Input, path: Path, out: Path) -> Outcome:
    """Handled, if it gives what the plain table gives."""
    from monai_kd.data import brain_mri_datalist, ham10000_datalist, hyper_kvasir_datalist

    def read(root: Path) -> Any:
        if one.kind == "table of classes":
            return ham10000_datalist(root)
        return hyper_kvasir_datalist(root) if one.kind == "table of splits" else brain_mri_datalist(root, folds=2)

    found = read(path.parent)
    if "data list" not in one.handled:
        raise WrongResult(f"'{path.name}' was taken")
    lists.write_plain(one.kind, path)
    if found != read(path.parent):
        raise WrongResult(f"'{path.name}' gives another list than the plain table")
    return Outcome(HANDLED)


# Checkpoints.


@door("load_weights", "checkpoint")
def _load_weights(one: Input, path: Path, out: Path) -> Outcome:
    from monai_kd.checkpoints import load_weights

    return _filled(one, path, out, lambda net: load_weights(net, path))


@door("FrozenTeacher", "checkpoint")
def _frozen_teacher(one: Input, path: Path, out: Path) -> Outcome:
    from monai_kd.teachers import FrozenTeacher

    return _filled(one, path, out, lambda net: FrozenTeacher(net, path))


def _filled(one: Input, path: Path, out: Path, fill: Callable[[Any], Any]) -> Outcome:
    """Handled, if the network has the weights; where it is refused, the network must be as before."""
    import torch

    net = checkpoints.network()
    with torch.no_grad():
        for value in net.state_dict().values():
            value.zero_()
    try:
        fill(net)
    except Exception:
        if any(value.any() for value in net.state_dict().values()):
            raise WrongResult("a refused checkpoint has changed the network") from None
        raise
    if not one.handled:
        raise WrongResult(f"'{path.name}' was taken")
    expected = checkpoints.state() if one.truth is None else one.truth(path)
    if not all(torch.equal(value, expected[key]) for key, value in net.state_dict().items()):
        raise WrongResult(f"the network has not the weights of '{path.name}'")
    return Outcome(HANDLED)


@door("ResumeCheckpoint", "checkpoint", "resume file")
def _resume(one: Input, path: Path, out: Path) -> Outcome:
    trainer, resume = checkpoints.trainer_with(path)
    if resume.load(trainer) != 2 or not one.handled:
        raise WrongResult(f"'{path.name}' was taken")
    return Outcome(HANDLED)


# Bundles.


def _bundle_command(name: str, *words: Any) -> Door:
    def bring_to(one: Input, path: Path, out: Path) -> Outcome:
        made = [out / "made"] if "-o" in words else []
        before = words[:1] if name == "distill" else ()
        command_line = [name, *before, path, *words[len(before) :], *made]
        found = command(command_line, *configurations.NAMES, f"{path.name}'")
        if found.word == HANDLED and not one.handled:
            raise WrongResult(f"'{path.name}' was taken: {found.said}")
        return found

    return bring_to


for _name, _words in {
    configurations.TAPS: ("taps",),
    configurations.CHECK: ("check",),
    configurations.COMPARE: ("compare", "--dry-run", "-o"),
    configurations.DISTIL: ("distill", "--teacher-bundle", "-o"),
}.items():
    door(_name, "bundle")(_bundle_command(*_words))


# Exported folders.


@door("load_exported", "export")
def _load_exported(one: Input, path: Path, out: Path) -> Outcome:
    from monai_kd.runtime import load_exported

    model = load_exported(path, num_threads=1)
    if not one.handled:
        raise WrongResult(f"'{path.name}' was taken")
    images = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    if not np.array_equal(model(images), _student("picture")(images)):
        raise WrongResult(f"'{path.name}' answers otherwise")
    return Outcome(HANDLED)


@door("monai-kd predict", "export")
def _predict_by_export(one: Input, path: Path, out: Path) -> Outcome:
    from . import pictures, volumes

    of_pictures = "picture" in path.name
    case = out / ("a.png" if of_pictures else "a.nii")
    _write_plain(case, pictures.pixels() if of_pictures else volumes.plain())
    names = (str(path), path.name, case.name)
    found = command(["predict", path, case, "-o", out / "masks", "--threads", 1], *names)
    if found.word == HANDLED:
        expected = _alone("picture", pictures.pixels())
        if not one.handled or not np.array_equal(_read(out / "masks" / "a.png"), expected):
            raise WrongResult(f"'{path.name}' was taken")
    return found


# Stored results.

_RECORDS = ("study.json", "cost.json", "run.json", "evaluation.json", "cases.csv", "history.csv")


@door("monai-kd report", "comparison")
def _report(one: Input, path: Path, out: Path) -> Outcome:
    found = command(["report", path], *_RECORDS, *(f"{name}/seed_0" for name in records.LEVELS), f"{path.name}'")
    if found.word == HANDLED and not one.handled:
        raise WrongResult(f"'{path.name}' was taken")
    if found.word == HANDLED and "<script>alert" in (path / "report.html").read_text(encoding="utf-8"):
        raise WrongResult("the page holds what is not escaped")
    return found


@door("load_evaluations", "comparison")
def _load_evaluations(one: Input, path: Path, out: Path) -> Outcome:
    from monai_kd.report import load_evaluations

    try:
        load_evaluations(path)
    except Exception as error:
        return refused_by(error, "evaluation.json", path.name)
    if not one.handled:
        raise WrongResult(f"'{path.name}' was taken")
    return Outcome(HANDLED)


# What is predicted.


@cache
def _student(kind: str) -> Any:
    from monai_kd.runtime import load_exported

    return load_exported(exported(kind), num_threads=1)


@cache
def exported(kind: str) -> Path:
    """The folder of an exported student, made once a process."""
    return students.export(Path(tempfile.mkdtemp(prefix="student-")) / kind, kind)


@door("predict a file", "picture", "volume")
def _predict_file(one: Input, path: Path, out: Path) -> Outcome:
    return _predicted(one, path, path, out)


@door("predict a folder", "picture", "volume")
def _predict_folder(one: Input, path: Path, out: Path) -> Outcome:
    """Beside two good ones, of which each must be done as if it were alone."""
    folder = path.parent if path.parent.name == "in" else path.parents[1]
    good = _good_ones(one.kind, folder)
    found = _predicted(one, path, folder, out)
    for other, alone in good.items():
        mask = out / _mask_of(other)
        if not mask.is_file() or not np.array_equal(_read(mask), alone):
            return Outcome("silent wrong", f"'{other.name}' beside it was not done as it is alone; {found}")
    return found


@door("monai-kd predict", "picture", "volume")
def _predict_command(one: Input, path: Path, out: Path) -> Outcome:
    found = command(["predict", exported(one.kind), path, "-o", out, "--threads", 1], path.name)
    if re.search(r"^  .*: \w+(Error|Exception): ", found.said, re.M):
        return Outcome("unclear", found.said)
    return _right(one, path, out, found) if found.word == HANDLED else found


def _predicted(one: Input, path: Path, source: Path, out: Path) -> Outcome:
    from monai_kd.runtime import predict

    done = predict(_student(one.kind), source, out)
    if path in done.failed:
        return refused(done.failed[path])  # under the file's name
    if path not in done.written:
        return refused(f"{path} was passed over", path.name)
    return _right(one, path, out, Outcome(HANDLED))


def _right(one: Input, path: Path, out: Path, found: Outcome) -> Outcome:
    """Handled, if the mask is that of what the input holds."""
    if one.truth is None:
        raise WrongResult(f"'{path.name}' was taken")
    expected = _alone(one.kind, one.truth(path))
    mask = _read(out / _mask_of(path))
    if mask.shape != expected.shape or not np.array_equal(mask, expected):
        raise WrongResult(f"the mask of '{path.name}' is not that of what it holds")
    return found


def _alone(kind: str, truth: Any) -> np.ndarray:
    """The mask of plain pixels, or of a plain volume (values, affine)."""
    from monai_kd.runtime import predict

    with tempfile.TemporaryDirectory(prefix="truth-") as folder:
        path = Path(folder) / ("plain.png" if kind == "picture" else "plain.nii")
        _write_plain(path, truth)
        predict(_student(kind), path, Path(folder) / "out")
        return _read(Path(folder) / "out" / _mask_of(path))


def _write_plain(path: Path, truth: Any) -> None:
    if path.suffix == ".png":
        Image.fromarray(truth).save(path)
    else:
        import nibabel

        values, affine = truth
        nibabel.save(nibabel.Nifti1Image(values, affine), path)


def _good_ones(kind: str, folder: Path) -> dict[Path, np.ndarray]:
    found = {}
    for number, name in enumerate(("!first", "~last")):
        path = folder / f"{name}.{'png' if kind == 'picture' else 'nii'}"
        truth = _good(kind, number + 5)
        _write_plain(path, truth)
        found[path] = _alone(kind, truth)
    return found


def _good(kind: str, seed: int) -> Any:
    from . import pictures, volumes

    return pictures.pixels(seed) if kind == "picture" else volumes.plain(seed)


def _mask_of(path: Path) -> str:
    if path.name.lower().endswith((".nii", ".nii.gz")):
        return path.name[: path.name.lower().rindex(".nii")] + "_seg.nii.gz"
    return f"{path.stem}.png"


def _read(path: Path) -> np.ndarray:
    if path.suffix == ".png":
        return np.asarray(Image.open(path))
    import nibabel

    return np.asarray(nibabel.load(path).dataobj)


# Words.


@door("monai-kd", "words")
def _words(one: Input, words: list[str], out: Path) -> Outcome:
    before = sorted(out.rglob("*"))
    found = command(words)
    if found.word == HANDLED:
        raise WrongResult(f"these words were taken: {found.said[-500:]}")
    return found if sorted(out.rglob("*")) == before else Outcome("silent wrong", "something was written")


@cache
def prepare(kind: str) -> None:
    """Make what inputs of a kind share, so that it is not counted as the first one's."""
    if kind in ("picture", "volume"):
        _alone(kind, _good(kind, 5))
    elif kind == "export":
        _student("picture")
    elif kind in ("checkpoint", "resume file"):
        import torch  # noqa: F401

        import monai_kd.handlers
    else:
        import monai_kd.cli.app
        import monai_kd.data  # noqa: F401


def forget() -> None:
    """Remove what was made once a process."""
    if _programs.cache_info().currsize:
        shutil.rmtree(_programs())
    for kind in ("picture", "volume"):
        if exported.cache_info().currsize:
            shutil.rmtree(exported(kind).parent, ignore_errors=True)
