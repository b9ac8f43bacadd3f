"""ImageNet weights of a DenseNet, from a file in torchvision's layout."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.networks.nets.densenet import DenseNet
from torch import nn

from monai_kd.checkpoints import CheckpointError, load_weights, read_state_dict

__all__ = ["load_densenet_weights"]

_CLASSIFIERS = ("classifier.", "class_layers.")
_LAYER = re.compile(r"(\.denselayer\d+)\.(norm|conv)\.?([12])\.")  # of old files: denselayer1.norm.1.weight


def load_densenet_weights(
    network: nn.Module, checkpoint: str | Path | Mapping[str, Any], sha256: str | None = None
) -> nn.Module:
    """Fill the DenseNet of ``network`` from an ImageNet classifier as torchvision publishes it (``densenet121-*.pth``).

    MONAI names the layers otherwise; its own ``pretrained=True`` needs a network connection and passes over entries
    that do not fit.

    Args:
        network: a ``monai.networks.nets.DenseNet121`` (169, 201, 264) with ``spatial_dims=2`` and ``in_channels=3``,
            or a network with one such in it.
        checkpoint: the file, or its state dict. The classifier is left out; everything else must fit. Counters of
            batches, which old files do not have, may be missing and then stay.
        sha256: that the file must have, ``None`` for no check.

    Returns:
        ``network``.

    Raises:
        TypeError: no DenseNet, or several of them.
        FileNotFoundError: no such file.
        CheckpointError: another file than ``sha256`` says; an entry is missing, unknown or of another shape, named in
            MONAI's layout. The network is left untouched.

    Example:
        >>> network = DenseNet(2, in_channels=3, out_channels=5, init_features=8, growth_rate=4, block_config=(1, 1))
        >>> published = {name.replace(".layers.", "."): value for name, value in network.state_dict().items()}
        >>> load_densenet_weights(network, published) is network
        True
    """
    found = [module for module in network.modules() if isinstance(module, DenseNet)]
    if len(found) != 1:
        raise TypeError(
            f"expected a monai.networks.nets.DenseNet or a network with one in it, got {type(network).__name__} with "
            f"{len(found)}."
        )
    published = {
        _LAYER.sub(r"\1.layers.\2\3.", name): value
        for name, value in read_state_dict(checkpoint, sha256=sha256).items()
        if not name.startswith(_CLASSIFIERS)
    }
    own = {
        name: value
        for name, value in found[0].state_dict().items()
        if name.startswith(_CLASSIFIERS) or name.endswith(".num_batches_tracked")
    }
    try:
        load_weights(found[0], own | published)
    except CheckpointError as error:
        raise CheckpointError(f"{_name(checkpoint)} holds the weights of another network: {error}") from None
    return network


def _name(checkpoint: str | Path | Mapping[str, Any]) -> str:
    return f"'{checkpoint}'" if isinstance(checkpoint, str | Path) else "the state dict"
