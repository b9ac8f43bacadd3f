"""An exported student where MONAI expects a network."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.data.meta_tensor import MetaTensor
from torch import Tensor, nn

from monai_kd.runtime.exported import load_exported

__all__ = ["RuntimeNetwork"]


class RuntimeNetwork(nn.Module):
    """An exported student as the ``network`` of a ``SupervisedEvaluator``, or what an inferer of MONAI calls.

    It computes on the CPU and answers in float32, whatever the precision of the runtime; it has no parameters and gives
    no gradients. Answers for a ``MetaTensor`` carry its meta data, as those of a network in torch do.

    Args:
        exported_dir: folder that ``monai-kd export`` has written.
        runtime, precision, num_threads: see :func:`monai_kd.runtime.load_exported`.

    Raises:
        FileNotFoundError: the folder or a file of it is missing.
        ExportError: a file was changed, or it was not verified with that runtime in that precision.
        ValueError: unknown runtime, precision or number of threads.

    Example:
        >>> RuntimeNetwork("nowhere")
        Traceback (most recent call last):
        FileNotFoundError: no folder 'nowhere'; give the folder that 'monai-kd export' has written.
    """

    def __init__(
        self,
        exported_dir: str | Path,
        runtime: str = "openvino",
        precision: str | None = None,
        num_threads: int | None = None,
    ) -> None:
        super().__init__()
        # What a runtime has compiled is neither copied nor pickled; from these it is made anew.
        self._made_from = (str(exported_dir), runtime, precision, num_threads)
        self.model = load_exported(exported_dir, runtime, precision, num_threads)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """What the exported network answers, without activation.

        Args:
            images: (B, C, *spatial) with the channels and the spatial shape of the export, any real type.

        Returns:
            float32, on the device of the images, of their type.

        Raises:
            ValueError: images of another shape.
        """
        plain = torch.Tensor.as_subclass(images.detach(), torch.Tensor)
        answer = torch.from_numpy(self.model(plain.to("cpu", torch.float32).numpy())).to(plain.device)
        if isinstance(images, MetaTensor):  # the name that masks are saved under is there
            return MetaTensor(answer).copy_meta_from(images)
        return answer

    def train(self, mode: bool = True) -> RuntimeNetwork:
        """Stay in eval mode whatever ``mode`` says: an exported network does not learn."""
        return super().train(False)

    def extra_repr(self) -> str:
        """What computes it, for ``print``."""
        return f"{self._made_from[0]!r}, {self.model.runtime}, {self.model.precision}, {self.model.num_threads} threads"

    def __reduce__(self) -> tuple[type[RuntimeNetwork], tuple[str, str, str | None, int | None]]:
        return type(self), self._made_from
