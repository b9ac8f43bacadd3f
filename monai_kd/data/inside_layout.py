"""Names of saved files that stay in their folder."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Any

from monai.config.type_definitions import PathLike
from monai.data.folder_layout import FolderLayout

from monai_kd._files import inside

__all__ = ["InsideLayout", "refuse_links"]


def refuse_links(folder: str | Path, ending: str) -> None:
    """Refuse to write where links wait in the place of files: for ``SaveImaged`` without :class:`InsideLayout`.

    Args:
        folder: where files are written, not in folders of it.
        ending: of their names.

    Raises:
        ValueError: links with such a name.

    Example:
        >>> refuse_links("nowhere", ".nii.gz")
    """
    if found := sorted(path.name for path in Path(folder).glob(f"*{glob.escape(ending)}") if path.is_symlink()):
        raise ValueError(
            f"'{folder}' has links ({', '.join(found[:5])}), and what they lead to is not replaced; remove them."
        )


class InsideLayout(FolderLayout):
    """MONAI's ``FolderLayout`` that does not leave ``output_dir``.

    MONAI names a file below ``output_dir`` as its image lies below ``data_root_dir``; an image that lies elsewhere
    then gets a name with "..", and its mask is written outside. Links are followed as well. Both are refused here,
    before a folder is made. Give it to ``SaveImaged`` as ``folder_layout``.

    Args:
        args, kwargs: of ``FolderLayout``.

    Raises:
        ValueError: when a file is named, one that would lie outside of the folder, or that is a link.

    Example:
        >>> layout = InsideLayout("/masks", postfix="seg", extension=".png", data_root_dir="/data")
        >>> Path(layout.filename("/data/a/1.jpg")).as_posix()
        '/masks/a/1_seg.png'
        >>> layout.filename("/elsewhere/1.jpg")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: '/elsewhere/1.jpg' does not lie below '/data': its file would be '/elsewhere/1_seg.png', outside ...
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._makes, self.makedirs = self.makedirs, False

    def filename(self, subject: PathLike = "subject", idx: Any = None, **kwargs: Any) -> PathLike:
        """The file's path, as ``FolderLayout`` has it."""
        path, folder = (
            Path(os.path.abspath(one)) for one in (super().filename(subject, idx, **kwargs), self.output_dir)
        )
        if not path.is_relative_to(folder):
            raise ValueError(
                f"'{subject}' does not lie below '{self.data_root_dir}': its file would be '{path}', outside of the "
                "output folder. Give a folder that all images are below as data_root_dir (dataset_dir of a bundle)."
            )
        inside(folder, path)
        if self._makes:
            path.parent.mkdir(parents=True, exist_ok=True)
        return str(path)
