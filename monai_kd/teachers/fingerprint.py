"""Whether a network is still the one whose answers were kept."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from monai_kd.taps import unwrap

__all__ = ["network_fingerprint", "tensor_digest"]


def network_fingerprint(network: nn.Module) -> str:
    """SHA-256 of a network's weights, buffers and layers: other by any bit of a weight or printed setting of a layer.

    Args:
        network: on any device; wrappers are looked through.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> network = nn.Linear(2, 1)
        >>> before = network_fingerprint(network)
        >>> with torch.no_grad():
        ...     _ = network.weight[0, 0].add_(1e-6 + network.weight[0, 0].abs())
        >>> network_fingerprint(network) == before
        False
    """
    network = unwrap(network)
    kind = type(network)
    digest = hashlib.sha256(f"{kind.__module__}.{kind.__qualname__} {network}".encode())
    for name, value in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor_digest(value) if isinstance(value, Tensor) else repr(value).encode())
    return digest.hexdigest()


def tensor_digest(value: Tensor) -> bytes:
    """SHA-256 of a tensor's type, shape and content, on whatever device it lies.

    Example:
        >>> tensor_digest(torch.zeros(2)) == tensor_digest(torch.zeros(2, 1))
        False
    """
    plain = value.detach().as_subclass(Tensor).cpu().contiguous()
    digest = hashlib.sha256(f"{plain.dtype} {tuple(plain.shape)}".encode())
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()
