"""An application of MONAI Deploy for students of volumes: NIfTI files in, masks out.

    python deploy_app/app.py -i ct.nii.gz -o masks -m exported/model.ts

See docs/deployment.md. Operators of the SDK that read and write DICOM go in the place of the first and the last one.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.deploy.conditions import CountCondition
from monai.deploy.core import AppContext, Application, Image, IOType, NamedModel, Operator, OperatorSpec
from monai.deploy.core.models import TorchScriptModel
from monai.deploy.operators import IOMapping, MonaiBundleInferenceOperator
from monai.transforms import LoadImage, SaveImage

__all__ = ["MaskWriter", "StudentApp", "VolumeReader", "find_volumes"]

SUFFIXES = (".nii", ".nii.gz")


class StudentApp(Application):
    """Reads volumes one after the other, runs the student that ``model.ts`` holds on each, and writes its masks.

    What is done around the network is in ``model.ts`` too: the operator of the SDK reads it from there. MONAI Deploy
    gives the application its arguments: ``-i`` a volume or a folder of volumes, ``-o`` a folder for the masks, ``-m``
    the file ``model.ts``, or a folder with ``<name>/model.ts`` alone.

    Raises:
        ValueError: there is no volume, or no exported student.
    """

    def compose(self) -> None:
        context: AppContext = Application.init_app_context(self.argv)
        volumes = find_volumes(Path(context.input_path))
        check_model(context)
        reader = VolumeReader(self, CountCondition(self, len(volumes)), paths=volumes, name="reader")
        student = MonaiBundleInferenceOperator(
            self,
            app_context=context,
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
            name="student",
        )
        writer = MaskWriter(self, folder=Path(context.output_path), name="writer")
        self.add_flow(reader, student, {("image", "image")})
        self.add_flow(student, writer, {("pred", "pred")})


class VolumeReader(Operator):
    """Gives one volume at each call, read as the bundle reads it; "image" is an ``Image`` (W, H, D) with its place.

    ``NiftiDataLoader`` of the SDK gives the numbers alone, without spacing and orientation.

    Args:
        fragment: the application.
        paths: of the volumes.
    """

    def __init__(self, fragment: Application, *args: Any, paths: list[Path], **kwargs: Any) -> None:
        self.remaining = list(paths)
        self.load = LoadImage(image_only=True)
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.output("image")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        volume = self.load(self.remaining.pop(0))
        op_output.emit(Image(volume.numpy(), metadata=dict(volume.meta)), "image")


class MaskWriter(Operator):
    """Writes "pred", an ``Image`` of labels (D, H, W), as ``<name>_seg.nii.gz`` on the voxels of its volume.

    Args:
        fragment: the application.
        folder: where masks go.
    """

    def __init__(self, fragment: Application, *args: Any, folder: Path, **kwargs: Any) -> None:
        self.save = SaveImage(
            output_dir=folder,
            output_ext=".nii.gz",
            output_postfix="seg",
            output_dtype=np.uint8,
            resample=False,
            separate_folder=False,
            print_log=False,
        )
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("pred")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        mask = op_input.receive("pred")
        meta = mask.metadata()
        labels = np.swapaxes(mask.asnumpy(), 0, 2)[None].copy()
        self.save(MetaTensor(labels, meta={**meta, "affine": meta["original_affine"]}))


def find_volumes(path: Path) -> list[Path]:
    """The volume, or those of a folder by their names.

    Raises:
        ValueError: there is none, or two would have masks of one name.
    """
    candidates = sorted(path.iterdir()) if path.is_dir() else [path]
    if found := [one for one in candidates if one.name.lower().endswith(SUFFIXES)]:
        names = [one.name.lower().removesuffix(".gz") for one in found]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} and the same with .gz would have masks of one name; keep one.")
        return found
    raise ValueError(f"no volume in '{path}': expected files ending in {' or '.join(SUFFIXES)}.")


def check_model(context: AppContext) -> None:
    """Refuse what MONAI Deploy would load and could not run.

    Raises:
        ValueError: it is not TorchScript.
    """
    model = context.models
    found = [one for _, one in model.items()] if isinstance(model, NamedModel) else [model]
    if len(found) != 1 or not isinstance(found[0], TorchScriptModel):
        raise ValueError(
            f"no exported student at '{context.model_path}': give the file model.ts that 'monai-kd export --to "
            "torchscript' has written, or a folder that holds <name>/model.ts alone."
        )


if __name__ == "__main__":
    try:
        StudentApp().run()
    except ValueError as error:
        sys.exit(f"error: {error}")
