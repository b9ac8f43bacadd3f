"""An app of MONAI Label for the bundles of pictures: polygons of a segmentation, scores of a classification.

MONAI Label's own app for bundles, ``monaibundle``, serves volumes; see docs/monai_label.md.
"""

from __future__ import annotations

from pathlib import Path

from lib.tasks import open_task
from monailabel.interfaces.app import MONAILabelApp

from monai_kd import __version__


class PictureApp(MONAILabelApp):
    """Answers for pictures with the students of bundles; it does not train them.

    Args:
        app_dir: this folder.
        studies: folder of pictures.
        conf: "models": names of bundles, between commas; "bundles": the folder that they are in.

    Raises:
        FileNotFoundError: no such bundle, or one without weights.
        ValueError: no bundle was named, or one is not for pictures.
        CheckpointError: weights of another network.
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        folder = Path(conf.get("bundles", "bundles"))
        names = [name.strip() for name in conf.get("models", "").split(",") if name.strip()]
        if not names:
            there = ", ".join(sorted(path.parents[1].name for path in folder.glob("*/configs/inference.json")))
            raise ValueError(f"say which bundles to serve: --conf models NAME,NAME; in '{folder}' are: {there or '-'}.")
        self.bundles = {name: folder / name for name in names}
        super().__init__(
            app_dir,
            studies,
            conf,
            name="monai_kd",
            description="Distilled students for pictures: polygons and classes",
            version=__version__,
        )

    def init_infers(self):
        return {name: open_task(path, self.conf) for name, path in self.bundles.items()}
