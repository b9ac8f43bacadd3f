"""A frozen teacher that answers from disk what it has answered before."""

from __future__ import annotations

import os
import pickle
import shutil
import uuid
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate
from tqdm import tqdm

from monai_kd._files import save_whole
from monai_kd._processes import rank
from monai_kd.taps import describe
from monai_kd.teachers.fingerprint import network_fingerprint, tensor_digest
from monai_kd.teachers.frozen import FrozenTeacher
from monai_kd.teachers.protocol import OUTPUT
from monai_kd.teachers.runtime import RuntimeTeacher
from monai_kd.teachers.views import refuse_random_views

__all__ = ["CachedTeacher"]

_FORMAT = "monai_kd teacher cache 1"
_SAME = {"f32": 0.005, "bf16": 0.02}


class CachedTeacher(nn.Module):
    """A frozen teacher whose answers are kept on disk, in half precision, and memory-mapped when they come again.

    An answer is found by the SHA-256 of what the teacher sees, an image behind all transforms, in a folder of the
    teacher's weights. So a batch needs no key or order of its own, and another image, transform or weight has just
    those answers made anew that it changes. Hashing an image costs what reading it does.

    What is not there is answered by the teacher and stored, whole or not at all, unless gradients are off (a dry run,
    a validation); :meth:`fill` does so for a whole loader. Stored or not, an answer is rounded to half precision, so
    that a run does not depend on what the cache held. Weights do not tell an edit of the network's code: the first
    stored answer of a run is compared with the teacher's own, and where they differ by more than 0.5 % of the largest
    value (2 % of a teacher in bf16), the folder is emptied. A file's checksums are looked at when a run first reads it.

    To the terms it is its teacher: no gradients, no parameters, nothing in a ``state_dict``. The teacher answers in
    float32 whatever the autocast.

    Args:
        teacher: a ``FrozenTeacher`` or ``RuntimeTeacher``; another one's answers may change with time.
        folder: of the cache, made if need be; several teachers may share it. Nothing deletes what is stale.
        dataset: what the training reads, asked for its transforms alone. Random ones are refused by name where the
            teacher would see other images each time, or where the student's image would be moved away from the
            answer; :class:`monai_kd.data.ReplayedDataset` makes them repeat. ``None`` checks nothing: no answer is
            wrong then, but views that never come again fill the disk.

    Attributes:
        hits: images answered from disk.
        misses: images answered by the teacher; equal ones of a batch count once.

    Raises:
        TypeError: a teacher of another kind.
        ValueError: random transforms. While training, an answer that half precision or the cache cannot hold.

    Example:
        >>> import tempfile
        >>> teacher = CachedTeacher(FrozenTeacher(nn.Conv2d(1, 2, 1)), tempfile.mkdtemp())
        >>> batch = {"image": torch.rand(3, 1, 4, 4)}
        >>> fresh, stored = teacher(batch, ["output"]), teacher(batch, ["output"])
        >>> torch.equal(fresh["output"], stored["output"]), teacher.hits, teacher.misses
        (True, 3, 3)
    """

    def __init__(
        self, teacher: FrozenTeacher | RuntimeTeacher, folder: str | os.PathLike[str], dataset: Any = None
    ) -> None:
        super().__init__()
        if not isinstance(teacher, FrozenTeacher | RuntimeTeacher):
            raise TypeError(
                f"a {type(teacher).__name__} may answer otherwise tomorrow; a FrozenTeacher or a RuntimeTeacher can be "
                "cached."
            )
        if dataset is not None:
            refuse_random_views(dataset, teacher.input_key)
        self.teacher = teacher
        self.folder = Path(folder)
        self.hits = self.misses = 0
        self._taps: tuple[str, ...] = (OUTPUT,)
        self._seen: tuple[Any, str] | None = None
        self._trusted = False
        self._whole: set[Path] = set()  # files that this run has seen to be so

    @property
    def input_key(self) -> str:
        """The batch key of the teacher's images."""
        return self.teacher.input_key

    @property
    def network(self) -> nn.Module | None:
        """The teacher's network, if it is one in this process."""
        return getattr(self.teacher, "network", None)

    def check(self, taps: Sequence[str], name: str = "teacher") -> None:
        """Raise ``ValueError`` when a tap does not exist; :meth:`fill` stores these."""
        self.teacher.check(taps, name)
        self._taps = tuple(dict.fromkeys([OUTPUT, *taps]))

    def forward(self, batch: Mapping[str, Tensor], taps: Sequence[str]) -> dict[str, Any]:
        """Outputs of the tapped layers, ``{tap: output}``, in float32, as those of the teacher.

        Args:
            batch: must hold the images under ``input_key``, (B, C, *spatial).
            taps: layer names, or "output" for what the network returns.

        Raises:
            ValueError: a layer does not return one row an image, or values beyond half precision.
        """
        store = torch.is_grad_enabled()
        images = batch[self.input_key].detach()
        with torch.no_grad():
            return self._answer(images, tuple(dict.fromkeys([OUTPUT, *taps])), store)

    @torch.no_grad()
    def fill(self, loader: Iterable[Mapping[str, Any]], progress: bool = True) -> int:
        """Store the answers for all batches of a loader, with a progress bar.

        The taps are those that a ``Distiller`` has asked for, so make it first. Stopped and called again, it goes on
        where it was.

        Args:
            loader: such as the trainer's own.
            progress: whether to show the bar.

        Returns:
            How many answers were missing.

        Raises:
            ValueError: the loader gives other images each time; while it reads, as a ``forward``.
        """
        before = self.misses
        dataset = getattr(loader, "dataset", None)
        if dataset is not None:
            refuse_random_views(dataset, self.input_key)
        device = next((p.device for p in (self.network or self).parameters()), torch.device("cpu"))
        for batch in tqdm(loader, desc="teacher's answers", unit="batch", disable=not progress or rank() > 0):
            self._answer(batch[self.input_key].to(device), self._taps, store=True)
        return self.misses - before

    def train(self, mode: bool = True) -> CachedTeacher:
        """Stay in eval mode whatever ``mode`` says."""
        return super().train(False)

    def _answer(self, images: Tensor, taps: tuple[str, ...], store: bool) -> dict[str, Any]:
        with torch.autocast(images.device.type, enabled=False):
            return self._answer_exactly(images.as_subclass(Tensor), taps, store)

    def _answer_exactly(self, images: Tensor, taps: tuple[str, ...], store: bool) -> dict[str, Any]:
        views = self._views(images)
        folder = self.folder / self._identity()
        found = {view: self._read(folder / f"{view}.pt", taps) for view in dict.fromkeys(views)}
        self._check_first(images, views, found, taps, folder)
        missing = [row for row, view in enumerate(views) if found[view] is None and views.index(view) == row]
        self.misses += len(missing)
        self.hits += sum(found[view] is not None for view in views)
        if missing:
            fresh = self._live(images if len(missing) == len(images) else images[missing], taps)
            for row, answer in zip(missing, fresh):
                found[views[row]] = answer
                if store:
                    _write(folder / f"{views[row]}.pt", answer)
        rows = [{tap: found[view][tap] for tap in taps} for view in views]  # type: ignore[index]
        return {tap: _promoted(value, images.device) for tap, value in default_collate(rows).items()}

    def _read(self, path: Path, taps: Sequence[str]) -> dict[str, Any] | None:
        """A stored answer; its checksums are compared the first time."""
        answer = _read(path, taps, check=path not in self._whole)
        if answer is not None:
            self._whole.add(path)
        return answer

    def _views(self, images: Tensor) -> list[str]:
        """What the teacher's network sees of each image, as names of files."""
        transform = self.teacher.transform
        seen = images if transform is None else transform(images)
        if len(seen) != len(images):
            raise ValueError(
                f"the teacher's transform made {len(seen)} images of {len(images)}; they cannot be cached."
            )
        return [tensor_digest(one).hex() for one in seen]

    def _identity(self) -> str:
        """Of the teacher; computed again when a weight was changed or replaced.

        A change behind autograd's back, such as ``weight.data.add_(1)``, is not seen.
        """
        if isinstance(self.teacher, RuntimeTeacher):
            return f"{self.teacher.export.fingerprint[:32]}_{self.teacher.precision}"
        state = self.teacher.network.state_dict(keep_vars=True).values()
        tensors = [value for value in state if isinstance(value, Tensor)]
        marks = [(id(one), one.data_ptr(), 0 if one.is_inference() else one._version) for one in tensors]
        if self._seen is None or self._seen[0] != marks:
            self._seen = marks, network_fingerprint(self.teacher.network)[:32]
        return self._seen[1]

    def _live(self, images: Tensor, taps: tuple[str, ...]) -> list[dict[str, Any]]:
        """The teacher's answers for each image, in half precision."""
        answer = self.teacher({self.input_key: images}, taps)
        return [{tap: _halved(answer[tap], tap, row, len(images)) for tap in taps} for row in range(len(images))]

    def _check_first(
        self,
        images: Tensor,
        views: list[str],
        found: dict[str, dict[str, Any] | None],
        taps: tuple[str, ...],
        folder: Path,
    ) -> None:
        """Hold the first stored answer of a run against the teacher's own."""
        row = next((row for row, view in enumerate(views) if found[view] is not None), None)
        if self._trusted or row is None:
            return
        (fresh,) = self._live(images[row : row + 1], taps)
        self._trusted = True
        # Read again: another process may have made it anew since.
        stored = _read(folder / f"{views[row]}.pt", taps)
        most = _SAME[getattr(self.teacher, "precision", "f32")]
        if stored is None or all(_alike(stored[tap], fresh[tap], most) for tap in taps):
            found[views[row]] = stored
            return
        warnings.warn(
            f"the answers in {folder} are not those of this teacher, whose code may have changed; they are made anew.",
            stacklevel=2,
        )
        aside = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}")  # at once, for all processes
        with suppress(FileNotFoundError):
            os.replace(folder, aside)
        shutil.rmtree(aside, ignore_errors=True)
        found.update(dict.fromkeys(found))


def _read(path: Path, taps: Sequence[str], check: bool = False) -> dict[str, Any] | None:
    """A stored answer, memory-mapped; ``None`` if it is not there, is damaged or lacks a tap."""
    if not path.is_file():
        return None
    try:
        if check:  # torch takes altered tensors without a word
            with zipfile.ZipFile(path) as archive:
                if (damaged := archive.testzip()) is not None:
                    raise ValueError(f"the checksum of its '{damaged}' is wrong")
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError("of another format")
        answer: dict[str, Any] = content["answer"]
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        warnings.warn(f"cache file {path} cannot be read ({reason}) and is made anew.", stacklevel=2)
        return None
    return answer if set(taps) <= answer.keys() else None


def _write(path: Path, answer: Mapping[str, Any]) -> None:
    """Store an answer, beside what an earlier run with other taps has stored of the view."""
    content = {"format": _FORMAT, "answer": {**(_read(path, ()) or {}), **answer}}
    for last in (False, True):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_whole(path, lambda file: torch.save(content, file))
            return
        except FileNotFoundError:  # another process has just set a stale folder aside
            if last:
                raise


def _halved(value: Any, tap: str, row: int, count: int) -> Any:
    """One image's row of what a layer returned, in half precision, on the CPU."""
    if isinstance(value, list | tuple):
        return [_halved(item, tap, row, count) for item in value]
    if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != count:
        raise ValueError(
            f"'{tap}' returned {describe(value)} for {count} images, not one row an image; it cannot be cached."
        )
    # A copy: a row would be stored with the storage of its whole batch.
    one = value[row].detach().as_subclass(Tensor).cpu().clone(memory_format=torch.contiguous_format)
    if not one.is_floating_point():
        return one
    half = one.half()
    if not torch.equal(half.isfinite(), one.isfinite()):
        raise ValueError(
            f"'{tap}' has values of {float(one.abs().max()):.3g}, half precision ends at 65504; it cannot be cached."
        )
    return half


def _promoted(value: Any, device: torch.device) -> Any:
    """Stored values as a teacher answers: on the device, in float32."""
    if isinstance(value, list | tuple):
        return [_promoted(item, device) for item in value]
    moved = value.to(device)
    return moved.float() if moved.is_floating_point() else moved


def _alike(stored: Any, fresh: Any, most: float) -> bool:
    """Whether two answers differ by no more than ``most`` of the largest value: half precision, devices."""
    if isinstance(stored, list) or isinstance(fresh, list):
        same = isinstance(stored, list) and isinstance(fresh, list) and len(stored) == len(fresh)
        return same and all(_alike(*pair, most) for pair in zip(stored, fresh))
    if stored.shape != fresh.shape:
        return False
    stored, fresh = stored.float(), fresh.float()
    ends = ~fresh.isfinite()  # of logits that are masked, say
    if not torch.equal(ends, ~stored.isfinite()) or not stored[ends].equal(fresh[ends]):
        return False
    difference = (stored - fresh).masked_fill(ends, 0).abs().max()
    return bool(difference <= most * fresh.masked_fill(ends, 0).abs().max() + 1e-6)
