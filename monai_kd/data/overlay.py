"""A transform that hides the picture of the endoscope's position, which tells the organ and not the finding."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection, NdarrayOrTensor
from monai.transforms.transform import MapTransform
from scipy.ndimage import find_objects, label

__all__ = ["MaskScopeOverlayd", "scope_overlay_box"]

# Green is at least this many times red and blue. Mucosa is red, bile and stool have about as much red, the dyes more
# blue. On the frames of Kvasir-SEG that have the picture, green is 2 to 10 times red and 1.2 to 1.3 times blue.
_OVER_RED, _OVER_BLUE = 1.6, 1.05
# Of the image's brightest value: darker pixels have no colour to speak of.
_DARK = 0.12
_LEAST_AREA = 0.004
_LEAST_FILL = 0.5


def scope_overlay_box(image: NdarrayOrTensor) -> tuple[slice, slice] | None:
    """Rows and columns of the green picture of the endoscope's position, or ``None`` if there is none.

    Some endoscopes show it in the lower left corner of the frame. It is found as the largest connected area of
    saturated green there: at least 0.4 % of the frame, and at least half of its own bounding box, in which the scope is
    drawn in another colour.

    Args:
        image: RGB, shape (3, H, W), of any range that starts at 0.

    Raises:
        ValueError: any other shape.

    Example:
        >>> image = torch.full((3, 80, 100), 0.5)
        >>> scope_overlay_box(image) is None
        True
        >>> image[:, 55:75, 5:30] = torch.tensor([0.1, 0.6, 0.2])[:, None, None]
        >>> scope_overlay_box(image)
        (slice(55, 75, None), slice(5, 30, None))
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"expected an RGB image of shape (3, H, W), got {tuple(image.shape)}; load it channel-first.")
    height, width = image.shape[1:]
    top, right = height // 2, (width + 1) // 2
    corner = image[:, top:, :right]
    values = corner.detach().cpu().numpy() if isinstance(corner, torch.Tensor) else np.asarray(corner)
    red, green, blue = values.astype(np.float32)
    lit = green >= _DARK * float(image.max())
    areas, _ = label(lit & (green > 0) & (green > _OVER_RED * red) & (green > _OVER_BLUE * blue))
    sizes = np.bincount(areas.ravel())[1:]
    if sizes.max(initial=0) < _LEAST_AREA * height * width:
        return None
    largest = int(sizes.argmax())
    rows, columns = find_objects(areas)[largest]
    if sizes[largest] < _LEAST_FILL * (rows.stop - rows.start) * (columns.stop - columns.start):
        return None
    return slice(top + rows.start, top + rows.stop), columns


class MaskScopeOverlayd(MapTransform):
    """Black out the green picture of the endoscope's position in the lower left corner of a frame.

    Only frames of some organs have it, so a network can learn it instead of the finding. A frame without it comes back
    as it is. Place it after loading and channel-first, and before anything that turns, scales or shifts values.

    The black box still says that there was a picture. Published frames without it often have such a box, too.

    Args:
        keys: images, shape (3, H, W), of any range that starts at 0.
        margin: how much of the frame's shorter side is blacked out around it, for compression blurs its edge.
        allow_missing_keys: pass over keys that an item lacks.

    Raises:
        ValueError: an image of another shape, or a negative margin.

    Example:
        >>> image = torch.full((3, 80, 100), 0.5)
        >>> image[:, 55:75, 5:30] = torch.tensor([0.1, 0.6, 0.2])[:, None, None]
        >>> masked = MaskScopeOverlayd("image")({"image": image})["image"]
        >>> float(masked[:, 55:75, 5:30].max()), float(masked[:, :40].min())
        (0.0, 0.5)
    """

    def __init__(self, keys: KeysCollection = "image", margin: float = 0.01, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if margin < 0:
            raise ValueError(f"margin must be 0 or more, got {margin}.")
        self.margin = margin

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            box = scope_overlay_box(item[key])
            if box is not None:
                item[key] = self._without(item[key], *box)
        return item

    def _without(self, image: NdarrayOrTensor, rows: slice, columns: slice) -> NdarrayOrTensor:
        more = round(self.margin * min(image.shape[1:]))
        masked = image.clone() if isinstance(image, torch.Tensor) else image.copy()
        masked[:, max(0, rows.start - more) : rows.stop + more, max(0, columns.start - more) : columns.stop + more] = 0
        return masked
