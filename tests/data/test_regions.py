import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.metrics import DiceMetric
from monai.transforms import AsDiscrete, LabelToMask

from monai_kd.data import ToRegionsd, to_regions

REGIONS = [[1, 2], [2]]


def naive(labels, regions):
    out = torch.zeros(len(regions), *labels.shape[1:])
    for channel, region in enumerate(regions):
        for position in np.ndindex(*labels.shape[1:]):
            out[(channel, *position)] = float(int(labels[(0, *position)]) in region)
    return out


@pytest.mark.parametrize("spatial", [(6,), (5, 4), (4, 3, 5)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.float64])
def test_matches_a_loop_and_monais_masks(spatial, dtype):
    labels = torch.randint(0, 4, (1, *spatial), generator=torch.Generator().manual_seed(0)).to(dtype)
    regions = to_regions(labels, [[1, 2], [2], [3, 0]])
    assert regions.dtype == torch.float32
    assert torch.equal(regions, naive(labels, [[1, 2], [2], [3, 0]]))
    masks = [LabelToMask(region, merge_channels=True)(labels) for region in REGIONS]
    assert torch.equal(regions[:2], torch.cat(masks).float().as_subclass(torch.Tensor))


def test_meta_data_and_other_entries_are_kept():
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0], dtype=torch.float64))
    labels = MetaTensor(torch.tensor([[[[0, 1, 2]]]]), affine=affine, meta={"filename_or_obj": "a.nii"})
    item = {"label": labels, "image": "a"}
    out = ToRegionsd("label", REGIONS)(item)
    assert item["label"] is labels
    assert out["image"] == "a"
    assert out["label"].shape == (2, 1, 1, 3)
    torch.testing.assert_close(out["label"].affine, affine)
    assert out["label"].meta["filename_or_obj"] == "a.nii"


def test_labels_and_predictions_meet_in_a_metric():
    logits = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 3, (1, 4, 4, 4), generator=torch.Generator().manual_seed(1))
    item = ToRegionsd(("pred", "label"), REGIONS)({"pred": AsDiscrete(argmax=True)(logits), "label": labels.numpy()})
    dice = DiceMetric(reduction="none")([item["pred"]], [item["label"]])[0]
    for region, score in zip(REGIONS, dice):
        pred, truth = (np.isin(x, region) for x in (logits.argmax(0).numpy(), labels[0].numpy()))
        assert score == pytest.approx(2 * (pred & truth).sum() / (pred.sum() + truth.sum()))


def test_missing_keys():
    assert ToRegionsd("label", REGIONS, allow_missing_keys=True)({"image": 1}) == {"image": 1}
    with pytest.raises(KeyError):
        ToRegionsd("label", REGIONS)({"image": 1})


@pytest.mark.parametrize("regions", [[], [[]], [1, 2], [[1.0]], [["1"]], "12", [[1], []], [[True]]])
def test_wrong_regions(regions):
    with pytest.raises(ValueError, match="lists of label values"):
        ToRegionsd("label", regions)


def test_class_scores_are_refused():
    with pytest.raises(ValueError, match=r"got shape \(3, 4, 4\); take the argmax"):
        to_regions(torch.rand(3, 4, 4), REGIONS)
