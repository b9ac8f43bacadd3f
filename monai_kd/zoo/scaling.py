"""The same architecture, narrower: constructor arguments of MONAI's networks scaled by a width factor."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import monai.networks.nets

__all__ = ["network_name", "scale_network"]

Arguments = Mapping[str, Any]
_LEAST = 4  # channels; fewer do not make a small network but a broken one
_PACKAGE = "monai.networks.nets"


def scale_network(target: str, arguments: Arguments, width: float) -> dict[str, Any]:
    """Constructor arguments of the same MONAI network with ``width`` times its channels.

    Depth, heads, kernels and everything else stay, so that layers keep their names and strides. Channels are rounded to
    what the network takes (a multiple of the groups of a group norm, of the heads of an attention) and are 4 at least.

    Args:
        target: the network's ``_target_``, as "UNet" or "monai.networks.nets.UNet".
        arguments: its arguments, without references; those left out have the constructor's defaults.
        width: factor of the channels, above 0 and below 1.

    Returns:
        ``arguments`` with the scaled ones in place; ``pretrained`` is switched off, for those weights do not fit.

    Raises:
        ValueError: a width out of range, or a network that cannot be scaled, with the reason and what to do.

    Example:
        >>> unet = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [16, 32, 64], "strides": [2, 2]}
        >>> scale_network("UNet", unet, 0.25)["channels"]
        [4, 8, 16]
    """
    if not 0 < width < 1:
        raise ValueError(f"width is a factor between 0 and 1, got {width}.")
    name = network_name(target)
    if name not in _SCALED:
        reason = _FIXED.get(name, "no argument that sets its channels is known")
        raise ValueError(f"{target} cannot be scaled: {reason}. {_INSTEAD}")
    known = _defaults(name) | dict(arguments)
    try:
        changes = _SCALED[name](known, width)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{target} cannot be scaled: its arguments {dict(arguments)} do not fit it ({error})."
        ) from None
    if all(changes[key] == known.get(key) for key in changes):
        spelt = ", ".join(f"{key} {value}" for key, value in changes.items())
        raise ValueError(f"{target} cannot be narrower than {spelt} at a width of {width}. {_INSTEAD}")
    if known.get("pretrained"):
        changes["pretrained"] = False
    return {**arguments, **changes}


def network_name(target: str) -> str:
    """The name under which MONAI knows a network: "UNet" of "Unet" and of "monai.networks.nets.unet.UNet".

    Other targets are returned as they are.
    """
    package, _, name = target.rpartition(".")
    found = getattr(monai.networks.nets, name, None)
    if package and not package.startswith(_PACKAGE):
        return target
    return found.__name__ if inspect.isclass(found) else name


def _defaults(name: str) -> dict[str, Any]:
    parameters = inspect.signature(getattr(monai.networks.nets, name)).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _rounded(channels: int, width: float, multiple: int = 1) -> int:
    """``width * channels`` as a multiple, at least ``_LEAST`` and not above ``channels``."""
    scaled = max(round(channels * width / multiple), math.ceil(_LEAST / multiple), 1) * multiple
    return min(scaled, channels)


def _groups(norm: Any) -> int:
    """Of what the channels must be a multiple for a norm, as MONAI writes it: a name, or a name and its arguments."""
    name, settings = (norm, {}) if isinstance(norm, str) else (norm[0], norm[1] if len(norm) > 1 else {})
    return int(settings.get("num_groups", 1)) if str(name).lower() == "group" else 1


def _list(key: str, norm: str = "norm") -> Callable[[Arguments, float], dict[str, Any]]:
    """Networks with a list of channels, one entry a level."""

    def scale(known: Arguments, width: float) -> dict[str, Any]:
        multiple = _groups(known.get(norm, "instance"))
        return {key: [_rounded(channels, width, multiple) for channels in known[key]]}

    return scale


def _first(key: str, multiple: int = 1) -> Callable[[Arguments, float], dict[str, Any]]:
    """Networks that double one number of channels from level to level."""

    def scale(known: Arguments, width: float) -> dict[str, Any]:
        return {key: _rounded(known[key], width, math.lcm(multiple, _groups(known.get("norm", "instance"))))}

    return scale


def _dynunet(known: Arguments, width: float) -> dict[str, Any]:
    levels = len(known["strides"])
    most = 320 if known["spatial_dims"] == 3 else 512
    filters = known["filters"] or [min(2 ** (5 + level), most) for level in range(levels)]  # MONAI's own default
    multiple = _groups(known["norm_name"])
    return {"filters": [_rounded(channels, width, multiple) for channels in filters[:levels]]}


def _segresnet(known: Arguments, width: float) -> dict[str, Any]:
    norm = known["norm"]
    if known.get("norm_name"):  # MONAI's older spelling
        norm = (known["norm_name"], {"num_groups": known["num_groups"]})
    return {"init_filters": _rounded(known["init_filters"], width, _groups(norm))}


def _swin_unetr(known: Arguments, width: float) -> dict[str, Any]:
    # Level i has 2^i times the first channels, shared by its heads; MONAI asks for a multiple of 12.
    heads = [count // math.gcd(count, 2**level) for level, count in enumerate(known["num_heads"])]
    return {"feature_size": _rounded(known["feature_size"], width, math.lcm(12, *heads, _groups(known["norm_name"])))}


def _unetr(known: Arguments, width: float) -> dict[str, Any]:
    each = known["hidden_size"] // known["num_heads"]
    heads = max(1, round(known["num_heads"] * width))
    if heads == known["num_heads"]:  # one head: it gets thinner
        each = _rounded(each, width, 2)
    hidden = each * heads
    return {
        "feature_size": _rounded(known["feature_size"], width, _groups(known["norm_name"])),
        "hidden_size": hidden,
        "mlp_dim": max(1, round(known["mlp_dim"] * hidden / known["hidden_size"])),
        "num_heads": heads,
    }


def _densenet(known: Arguments, width: float) -> dict[str, Any]:
    multiple = _groups(known.get("norm", "batch"))
    return {key: _rounded(known[key], width, multiple) for key in ("init_features", "growth_rate")}


def _resnet(known: Arguments, width: float) -> dict[str, Any]:
    """resnet10 to resnet200 start with 64 channels; the factor is a whole number of them."""
    channels = int(64 * known.get("widen_factor", 1.0))
    return {"widen_factor": _rounded(channels, width, _groups(known.get("norm", "batch"))) / 64}


def _highresnet(known: Arguments, width: float) -> dict[str, Any]:
    multiple = _groups(known["norm_type"])
    layers: Sequence[Mapping[str, Any]] = known["layer_params"]
    return {
        "layer_params": [
            {**layer, "n_features": _rounded(layer["n_features"], width, multiple)}
            if "n_features" in layer
            else dict(layer)
            for layer in layers
        ]
    }


_SCALED: dict[str, Callable[[Arguments, float], dict[str, Any]]] = {
    "AttentionUnet": _list("channels"),
    "BasicUNet": _list("features"),
    "BasicUNetPlusPlus": _list("features"),
    "Classifier": _list("channels"),
    "DynUNet": _dynunet,
    "HighResNet": _highresnet,
    "MedNeXt": _first("init_filters"),
    "ResNet": _list("block_inplanes"),
    "SegResNet": _segresnet,
    "SegResNetDS": _first("init_filters"),
    "SegResNetDS2": _first("init_filters"),
    "SegResNetVAE": _segresnet,
    "SwinUNETR": _swin_unetr,
    "UNETR": _unetr,
    "UNet": _list("channels"),
    **{f"DenseNet{layers}": _densenet for layers in ("", 121, 169, 201, 264)},
    **{f"resnet{layers}": _resnet for layers in (10, 18, 34, 50, 101, 152, 200)},
}

_CODE = "its channels are fixed in its code"
_NAMED = "its channels come with its name; "
_FIXED = {
    "AHNet": _CODE,
    "EfficientNetBN": f"{_NAMED}a smaller one is model_name 'efficientnet-b0'",
    "FlexibleUNet": f"{_NAMED}a smaller one is backbone 'efficientnet-b0' or 'resnet10' with fewer decoder_channels",
    "HoVerNet": _CODE,
    "MILModel": f"{_NAMED}a smaller one is backbone 'resnet18'",
    "TorchVisionFCModel": f"{_NAMED}a smaller one is model_name 'resnet18'",
    "VNet": _CODE,
    **dict.fromkeys(("SENet", "SENet154", "SEResNet50", "SEResNet101", "SEResNet152"), _CODE),
    **dict.fromkeys(("SEResNext50", "SEResNext101"), _CODE),
}
_INSTEAD = "Give a student network of your own, as {'_target_': ..., arguments}."
