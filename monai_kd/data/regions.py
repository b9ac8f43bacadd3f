"""Label maps as regions that may lie in one another."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config.type_definitions import KeysCollection
from monai.data.meta_obj import get_track_meta
from monai.transforms.transform import MapTransform
from monai.utils.type_conversion import convert_to_tensor
from torch import Tensor

__all__ = ["ToRegionsd", "to_regions"]


def to_regions(labels: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """One channel a region: 1 where the label map has one of the region's values, 0 elsewhere.

    Args:
        labels: class indices, shape (1, *spatial), whole numbers of any type.
        regions: the values of each region; one value may belong to several, as a tumour belongs to its organ.

    Returns:
        The regions, shape (len(regions), *spatial), float32; a ``MetaTensor`` keeps its meta data.

    Raises:
        ValueError: more than one channel, or none.

    Example:
        >>> to_regions(torch.tensor([[0, 1, 2]]), [[1, 2], [2]])
        tensor([[0., 1., 1.],
                [0., 0., 1.]])
    """
    if labels.shape[0] != 1:
        raise ValueError(
            f"expected a label map of one channel, got shape {tuple(labels.shape)}; "
            "take the argmax of class scores first: AsDiscreted(keys, argmax=True)."
        )
    return torch.cat([torch.isin(labels, torch.tensor(region, device=labels.device)) for region in regions]).float()


class ToRegionsd(MapTransform):
    """Turn label maps, and the argmax of predictions, into regions: the scores of KiTS and LiTS are of such.

    The two are the organ with its tumours and the tumours alone, ``[[1, 2], [2]]``. MONAI's ``LabelToMaskd`` makes one
    region a call and would need a copy of the item for each.

    Args:
        keys: label maps, shape (1, *spatial).
        regions: see :func:`to_regions`.
        allow_missing_keys: pass items over that lack a key.

    Raises:
        ValueError: no region, a region without values, or values that are no whole numbers.

    Example:
        >>> ToRegionsd("label", [[1, 2], [2]])({"label": torch.tensor([[0, 1, 2]])})["label"].tolist()
        [[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]
    """

    def __init__(
        self, keys: KeysCollection, regions: Sequence[Sequence[int]], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.regions = [list(region) if isinstance(region, Sequence) else [] for region in regions]
        if not self.regions or not all(region and all(type(v) is int for v in region) for region in self.regions):
            raise ValueError(f"regions must be lists of label values such as [[1, 2], [2]], got {regions!r}.")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = to_regions(convert_to_tensor(item[key], track_meta=get_track_meta()), self.regions)
        return item
