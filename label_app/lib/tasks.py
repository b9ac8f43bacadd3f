"""What MONAI Label asks of a bundle for pictures: its own transforms and network, and an answer that can be shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from monai.transforms import MapTransform
from monailabel.interfaces.tasks.infer_v2 import InferType
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.transform.writer import PolygonWriter
from monailabel.utils.others.label_colors import get_color

from lib.polygons import outlines
from monai_kd.checkpoints import load_weights
from monai_kd.inferers import RuntimeNetwork

__all__ = ["ClassificationTask", "PolygonTask", "Polygonsd", "open_task"]


def open_task(bundle: Path, conf: dict[str, str]) -> BundleInferTask:
    """The task of a bundle, by what its metadata says of the network's output.

    Raises:
        FileNotFoundError: no such bundle, or one without weights.
        ValueError: the bundle is not for pictures.
        CheckpointError: weights of another network.
    """
    path = bundle / "configs" / "metadata.json"
    if not path.is_file() or not (path.parent / "inference.json").is_file():
        raise FileNotFoundError(f"no bundle '{bundle}': give its name in --conf models, its folder in --conf bundles.")
    formats = json.loads(path.read_text(encoding="utf-8"))["network_data_format"]
    image, answer = (next(iter(formats[side].values())) for side in ("inputs", "outputs"))
    if len(image["spatial_shape"]) != 2:
        raise ValueError(f"'{bundle.name}' is for volumes: serve it with MONAI Label's app monaibundle.")
    weights = bundle / "models" / "model.pt"
    if not weights.is_file() and not weights.with_suffix(".ts").is_file():
        raise FileNotFoundError(f"'{bundle}' has no models/model.pt: put the trained student there, or its model.ts.")
    task = (PolygonTask if answer.get("spatial_shape") else ClassificationTask)(bundle, conf, answer)
    if isinstance(task.network, RuntimeNetwork):
        task.load_strict = False  # it has its own weights, and MONAI Label gives it those of model.pt
    elif task.network is not None:
        load_weights(task.network, weights)  # said now, and not by each request
    return task


class PolygonTask(BundleInferTask):
    """A segmentation, answered with the outlines of its mask.

    A request may have "tolerance" and "min_poly_area", see :func:`lib.polygons.outlines`.

    Args:
        bundle: its folder.
        conf: of the server.
        answer: of the metadata, what the network gives.
    """

    def __init__(self, bundle: Path, conf: dict[str, str], answer: dict[str, Any]) -> None:
        super().__init__(str(bundle), conf, type=InferType.SEGMENTATION, load_strict=True)
        names = {int(channel): name for channel, name in answer["channel_def"].items()}
        single = len(names) == 1
        self.labels = {name: 1 if single else value for value, name in names.items() if single or value > 0}

    def post_transforms(self, data=None):
        return [*super().post_transforms(data), Polygonsd(self.output_label_key, self.labels, self.output_json_key)]

    def writer(self, data, extension=None, dtype=None):
        return PolygonWriter(label=self.output_label_key, json=self.output_json_key)(data)


class ClassificationTask(BundleInferTask):
    """A classification, answered with the scores of all classes and the class of the highest.

    Args:
        bundle, conf, answer: see :class:`PolygonTask`.
    """

    def __init__(self, bundle: Path, conf: dict[str, str], answer: dict[str, Any]) -> None:
        super().__init__(str(bundle), conf, type=InferType.CLASSIFICATION, add_post_restore=False, load_strict=True)
        declared = [name for _, name in sorted(answer["channel_def"].items(), key=lambda one: int(one[0]))]
        names = (
            self.bundle_config.get_parsed_content("class_names") if "class_names" in self.bundle_config else declared
        )
        self.labels = {str(name): index for index, name in enumerate(names)}

    def writer(self, data, extension=None, dtype=None):
        file, result = super().writer(data, extension, dtype)
        return file, {**result, "class": max(result["prediction"], key=lambda one: one["score"])["label"]}


class Polygonsd(MapTransform):
    """Outlines of a label map, in the form that ``PolygonWriter`` and MONAI Label's clients for pictures read.

    Args:
        keys: of the label map, (1, width, height) as MONAI has pictures.
        labels: values by name.
        result: key that the answer is put under.
    """

    def __init__(self, keys: str, labels: dict[str, int], result: str) -> None:
        super().__init__(keys)
        self.labels = labels
        self.result = result

    def __call__(self, data):
        found = dict(data)
        tolerance, min_area = float(found.get("tolerance", 0.5)), float(found.get("min_poly_area", 0))
        for key in self.keys:
            values = np.asarray(found[key])[0].T
            elements = [
                {"label": name, "contours": polygons}
                for name, value in self.labels.items()
                if (polygons := outlines(values == value, tolerance, min_area))
            ]
            annotation = {
                "location": [0, 0],
                "size": list(values.shape[::-1]),
                "elements": elements,
                "labels": {name: get_color(name, found.get("label_colors")) for name in self.labels},
            }
            found[self.result] = {**(found.get(self.result) or {}), "annotation": annotation}
        return found
