"""The exported student behind MONAI's inferers."""

from monai_kd.inferers.runtime_network import RuntimeNetwork

__all__ = ["RuntimeNetwork"]
