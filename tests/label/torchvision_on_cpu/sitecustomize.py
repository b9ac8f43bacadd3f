"""Lets torchvision of PyPI be imported beside a torch built for the CPU.

Its compiled part needs CUDA and does not load, but its Python part registers shapes for two operators of that part.
Declared before the import they exist in name, and what MONAI Label uses of torchvision calls neither. Python runs this
file at its start if the folder is on PYTHONPATH.
"""

import sys
from importlib.abc import MetaPathFinder

LIBRARIES = []  # an operator lives as long as the library that declares it


class DeclareOperators(MetaPathFinder):
    """Finds nothing; acts when torchvision is imported for the first time."""

    def find_spec(self, fullname, path, target=None):
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch

            if torch.version.cuda is None:
                library = torch.library.Library("torchvision", "DEF")
                for name in ("nms", "qnms"):
                    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
                LIBRARIES.append(library)


sys.meta_path.insert(0, DeclareOperators())
