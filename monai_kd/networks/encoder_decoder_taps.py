"""Which layers of an encoder-decoder can be tapped: once for each architecture, by the network's type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.basic_unetplusplus import BasicUNetPlusPlus
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.segresnet import SegResNet
from monai.networks.nets.segresnet_ds import SegResNetDS
from monai.networks.nets.unet import UNet
from torch import nn

from monai_kd.networks.nested_unet import NestedUNet
from monai_kd.networks.resnet_fcn import ResNetFCN
from monai_kd.networks.unet_2d import UNet2d
from monai_kd.taps import check_tap_names, unwrap

__all__ = ["EncoderDecoderTaps", "encoder_decoder_taps"]


@dataclass(frozen=True)
class EncoderDecoderTaps:
    """The taps of an encoder-decoder network, as ``DistillationTerm`` takes them.

    Args:
        encoder: e1 (shallow) to en (the bottleneck), one a resolution.
        decoder: dn (deepest) to d2 (shallowest), one a resolution: d2 has the size of e1.
        head: layer of the full-resolution logits, or "output".
        heads: all layers of logits that deep supervision trains, full resolution first; ``(head,)`` if left out.

    Raises:
        ValueError: no encoder tap, or heads that do not start with ``head``.

    Example:
        >>> EncoderDecoderTaps(encoder=("stem", "stage1", "stage2"), decoder=("up2", "up1"), head="classifier").heads
        ('classifier',)
    """

    encoder: tuple[str, ...]
    decoder: tuple[str, ...]
    head: str
    heads: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in ("encoder", "decoder", "heads"):  # a config has lists
            names = getattr(self, field)
            object.__setattr__(self, field, (names,) if isinstance(names, str) else tuple(names))
        if not self.heads:
            object.__setattr__(self, "heads", (self.head,))
        if not self.encoder:
            raise ValueError("encoder names no layer; give them from the shallowest to the bottleneck.")
        if self.heads[0] != self.head:
            raise ValueError(
                f"heads start with the full-resolution head '{self.head}', got {self.heads}; put it in front."
            )


def encoder_decoder_taps(network: nn.Module) -> EncoderDecoderTaps:
    """The taps of a network whose architecture is known here.

    Every layer named is one that no later layer overwrites in place.

    Args:
        network: a network of MONAI or of ``monai_kd.networks``; ``DistributedDataParallel`` and ``torch.compile``
            wrappers are looked through.

    Returns:
        Its taps, of as many levels as the network has.

    Raises:
        TypeError: the architecture is not known here.
        ValueError: a subclass that has other layers than its architecture.

    Example:
        >>> taps = encoder_decoder_taps(UNet(2, 1, 3, channels=(4, 8, 16, 32), strides=(2, 2, 2)))
        >>> taps.encoder
        ('model.0', 'model.1.submodule.0', 'model.1.submodule.1.submodule.1.submodule')
        >>> taps.decoder, taps.head
        (('model.1.submodule.1.submodule.2', 'model.1.submodule.2'), 'model.2')
    """
    network = unwrap(network)
    for known, taps_of in _ARCHITECTURES.items():
        if isinstance(network, known):
            taps = taps_of(network)
            names = [*taps.encoder, *taps.decoder, *taps.heads]
            check_tap_names(network, [name for name in names if name != "output"])
            return taps
    known_here = ", ".join(known.__name__ for known in _ARCHITECTURES)
    raise TypeError(
        f"the taps of a {type(network).__name__} are not known here (known: {known_here}). Make them yourself: "
        "EncoderDecoderTaps(encoder=..., decoder=..., head=...); monai_kd.taps.tap_table(network, input_shape) lists "
        "all layers with their shapes."
    )


def _dynunet(network: DynUNet) -> EncoderDecoderTaps:
    heads = range(network.deep_supr_num) if network.deep_supervision else ()
    return EncoderDecoderTaps(
        encoder=("input_block", *(f"downsamples.{i}" for i in range(len(network.downsamples))), "bottleneck"),
        decoder=tuple(f"upsamples.{i}" for i in range(len(network.upsamples))),
        head="output_block",
        heads=("output_block", *(f"deep_supervision_heads.{i}" for i in heads)),
    )


def _unet(network: UNet) -> EncoderDecoderTaps:
    """The bottom layer has the deepest down layer's size, and stands for it; the last up layer makes the logits."""
    blocks = ["model" + ".1.submodule" * i for i in range(len(network.channels))]
    *levels, bottom = blocks
    return EncoderDecoderTaps(
        encoder=(*(f"{block}.0" for block in levels[:-1]), bottom),
        decoder=tuple(f"{block}.2" for block in levels[:0:-1]),
        head="model.2",
    )


def _basic_unet(network: BasicUNet) -> EncoderDecoderTaps:
    return EncoderDecoderTaps(
        encoder=("conv_0", "down_1", "down_2", "down_3", "down_4"),
        decoder=("upcat_4", "upcat_3", "upcat_2", "upcat_1"),
        head="final_conv",
    )


def _basic_unetplusplus(network: BasicUNetPlusPlus) -> EncoderDecoderTaps:
    """All heads are of full resolution, the last node's first; those that nothing trains are left out."""
    columns = (4, 3, 2, 1) if network.deep_supervision else (4,)
    return EncoderDecoderTaps(
        encoder=("conv_0_0", "conv_1_0", "conv_2_0", "conv_3_0", "conv_4_0"),
        decoder=("upcat_3_1", "upcat_2_2", "upcat_1_3", "upcat_0_4"),
        head="final_conv_0_4",
        heads=tuple(f"final_conv_0_{column}" for column in columns),
    )


def _segresnet(network: SegResNet) -> EncoderDecoderTaps:
    return EncoderDecoderTaps(
        encoder=tuple(f"down_layers.{i}" for i in range(len(network.down_layers))),
        decoder=tuple(f"up_layers.{i}" for i in range(len(network.up_layers))),
        head="conv_final" if network.use_conv_final else "output",
    )


def _segresnet_ds(network: SegResNetDS) -> EncoderDecoderTaps:
    levels = len(network.up_layers)
    heads = [f"up_layers.{i}.head" for i in range(max(levels - network.dsdepth, 0), levels)][::-1]
    return EncoderDecoderTaps(
        encoder=tuple(f"encoder.layers.{i}.blocks" for i in range(len(network.encoder.layers))),
        decoder=tuple(f"up_layers.{i}.blocks" for i in range(levels)),
        head=heads[0],
        heads=tuple(heads),
    )


def _unet_2d(network: UNet2d) -> EncoderDecoderTaps:
    return EncoderDecoderTaps(
        encoder=tuple(f"encoder.{i}" for i in range(len(network.encoder))),
        decoder=tuple(f"decoder.{i}" for i in range(len(network.decoder))),
        head="head",
    )


def _nested_unet(network: NestedUNet) -> EncoderDecoderTaps:
    last = network.levels - 1
    return EncoderDecoderTaps(
        encoder=tuple(f"nodes.x{i}_0" for i in range(network.levels)),
        decoder=tuple(f"nodes.x{last - j}_{j}" for j in range(1, network.levels)),
        head="head",
    )


def _resnet_fcn(network: ResNetFCN) -> EncoderDecoderTaps:
    stages = ("backbone.act", *(f"backbone.layer{i}" for i in range(1, 5)))
    return EncoderDecoderTaps(encoder=stages, decoder=stages[-2::-1], head="output")


_ARCHITECTURES: dict[type[nn.Module], Callable[[Any], EncoderDecoderTaps]] = {
    DynUNet: _dynunet,
    UNet: _unet,
    BasicUNet: _basic_unet,
    BasicUNetPlusPlus: _basic_unetplusplus,
    SegResNet: _segresnet,
    SegResNetDS: _segresnet_ds,
    UNet2d: _unet_2d,
    NestedUNet: _nested_unet,
    ResNetFCN: _resnet_fcn,
}
