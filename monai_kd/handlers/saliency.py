"""Pictures of where a classifier looked, by Grad-CAM."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys as Keys
from monai.visualize.class_activation_maps import GradCAM
from monai.visualize.utils import blend_images
from monai.visualize.visualizer import default_upsampler
from PIL import Image
from torch import Tensor, nn

from monai_kd._files import inside, save_whole
from monai_kd._processes import rank
from monai_kd.handlers.predictions import image_file, output_items
from monai_kd.metrics.classification import as_row
from monai_kd.taps import check_tap_names, unwrap

__all__ = ["SaliencyMaps"]

_OPACITY = 0.5


class SaliencyMaps:
    """Writes a picture of every evaluated image: the image, and beside it the Grad-CAM [0] of its predicted class.

    The heat is what speaks for that class, scaled so that its maximum is the brightest; where nothing does, there is
    none. Pictures show the image as the network saw it, (C, H, W) with 1 or 3 channels, and are (H, 2 W) large.

    A picture of ``<root>/folder/a.jpg`` that was taken for a nevus is ``<output_dir>/folder/a.jpg.nevus.png``; without
    ``root`` the folders are those of the full path, so equal names in different folders stay apart.

    The maps are made with a copy of the network, taken when the run's first batch comes: the network itself keeps its
    mode, hooks, gradients and in-place activations.

    [0] Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization, 2017,
    https://arxiv.org/abs/1610.02391

    Args:
        network: the classifier that the evaluator runs, images (B, C, H, W) to logits (B, K).
        target_layer: a layer with features (B, F, h, w), as in ``network.named_modules()``; the last one before the
            pooling is usual, ``class_layers.relu`` of MONAI's DenseNet.
        output_dir: folder of the pictures.
        class_names: one a class, in the order of the class indices.
        mean: what was subtracted from each channel of the images, undone in the pictures; without it every image is
            stretched from its minimum to its maximum.
        std: what each channel was divided by after that.
        white: the value of white before that: 1, or 255 where images hold 8-bit values.
        root: the folder that the images are below.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no such layer (the closest names are listed), or ``mean`` and ``std`` that do not fit each other or
            ``white``; in the run, images or features of another shape, or an image outside ``root``.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from monai.engines import SupervisedEvaluator
        >>> from monai.networks.nets import DenseNet
        >>> net = DenseNet(2, 3, 2, init_features=8, growth_rate=4, block_config=(2, 2))
        >>> with TemporaryDirectory() as folder:
        ...     maps = SaliencyMaps(net, "class_layers.relu", folder, ["benign", "malignant"])
        ...     SupervisedEvaluator("cpu", [{"image": torch.rand(2, 3, 32, 32)}], net, val_handlers=[maps]).run()
        ...     len(list(Path(folder).glob("*.png")))
        2
    """

    def __init__(
        self,
        network: nn.Module,
        target_layer: str,
        output_dir: str | Path,
        class_names: Sequence[str],
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        white: float = 1.0,
        root: str | Path | None = None,
    ) -> None:
        if find_spec("matplotlib") is None:
            raise ImportError('pictures need matplotlib: pip install "monai-kd[plots]"')
        check_tap_names(network, [target_layer])
        _check_normalisation(mean, std, white)
        self.network = network
        self.target_layer = target_layer
        self.output_dir = Path(output_dir)
        self.class_names = tuple(class_names)
        self.mean = mean
        self.std = std
        self.white = white
        self.root = root
        self._cam: GradCAM | None = None
        self._unnamed = 0

    def attach(self, engine: Engine) -> None:
        """Register with a MONAI evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._reset)

    def __call__(self, engine: Engine) -> None:
        for item in output_items(engine):
            predicted = int(as_row(item[Keys.PRED], self.class_names).argmax())
            image = torch.as_tensor(item[Keys.IMAGE]).as_subclass(Tensor)
            if image.ndim != 3 or image.shape[0] not in (1, 3):
                raise ValueError(f"expected images of shape (1, H, W) or (3, H, W), got {tuple(image.shape)}.")
            heat = self._heat(image, predicted)
            path = self._path(image_file(item), self.class_names[predicted])
            picture = _picture(self._displayed(image), heat)
            inside(self.output_dir, path)
            path.parent.mkdir(parents=True, exist_ok=True)
            save_whole(path, partial(picture.save, format="PNG"))

    def _reset(self) -> None:
        self._cam, self._unnamed = None, 0

    def _heat(self, image: Tensor, predicted: int) -> Tensor:
        """How much each pixel speaks for the class, shape (1, H, W), from 0 to 1."""
        with torch.inference_mode(False), torch.enable_grad():
            if self._cam is None:
                self._cam = GradCAM(_copy(self.network), self.target_layer)
            # One image at a time: in a batch, MONAI mixes the gradients of all classes that it was predicted.
            batch = image.clone()[None].requires_grad_()
            features = self._cam.compute_map(batch, class_idx=predicted).detach()
        if features.ndim != 4:
            raise ValueError(
                f"layer '{self.target_layer}' gives no features of shape (B, F, h, w); take one before the pooling."
            )
        heat = default_upsampler(image.shape[1:])(features)[0]
        return heat / heat.max().clamp(min=torch.finfo(heat.dtype).tiny)

    def _displayed(self, image: Tensor) -> Tensor:
        """The image before it was normalised, from 0 to 1."""
        image = image.detach().float().cpu()
        if self.mean is None or self.std is None:
            low, high = image.aminmax()
            return (image - low) / (high - low).clamp(min=torch.finfo(torch.float32).tiny)
        if len(self.mean) != len(image):
            raise ValueError(f"mean and std are of {len(self.mean)} channels, the image has {len(image)}.")
        mean, std = (torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (self.mean, self.std))
        return ((image * std + mean) / self.white).clamp(0, 1)

    def _path(self, file: str, predicted: str) -> Path:
        suffix = re.sub(r"[^\w\-]+", "_", predicted)
        if not file:
            self._unnamed += 1
            return self.output_dir / f"unnamed_{rank()}_{self._unnamed - 1:05}.{suffix}.png"
        path = Path(os.path.abspath(file))
        root = Path(path.anchor if self.root is None else os.path.abspath(self.root))
        if not path.is_relative_to(root):
            raise ValueError(f"image '{path}' is outside root '{root}'; give a folder that all images are below.")
        below = path.relative_to(root)
        return self.output_dir / below.with_name(f"{below.name}.{suffix}.png")


def _copy(network: nn.Module) -> nn.Module:
    """A network whose layers may be hooked: without in-place activations, and with gradients of features alone."""
    network = copy.deepcopy(unwrap(network)).eval().requires_grad_(False)
    for module in network.modules():
        if getattr(module, "inplace", False):
            vars(module)["inplace"] = False
    return network


def _picture(image: Tensor, heat: Tensor) -> Image.Image:
    image = image.expand(3, -1, -1)
    overlay = blend_images(image, heat.float().cpu(), alpha=_OPACITY, cmap="jet", rescale_arrays=False)
    pixels = torch.cat([image, torch.as_tensor(overlay)], dim=2).mul(255).round().byte()
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))


def _check_normalisation(mean: Sequence[float] | None, std: Sequence[float] | None, white: float) -> None:
    if (mean is None) != (std is None):
        raise ValueError(f"give both mean and std, or neither; got mean={mean} and std={std}.")
    if mean is None or std is None:
        return
    if len(mean) != len(std) or min(std) <= 0:
        raise ValueError(f"mean and std need one number a channel, std above 0; got mean={mean} and std={std}.")
    if not 0 <= min(mean) <= max(mean) <= white:
        raise ValueError(f"mean must lie between 0 and white={white:g}, got {mean}; give white=255 for 8-bit values.")
