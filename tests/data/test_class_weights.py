import numpy as np
import pytest
import torch

from monai_kd.data import class_weights


def items(*labels):
    return [{"image": str(number), "label": label} for number, label in enumerate(labels)]


def test_published_counts_give_the_published_weights():
    counts = [1805, 370, 999, 193, 295]
    found = class_weights([{"label": label} for label, count in enumerate(counts) for _ in range(count)], 5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([2.0288, 9.8973, 3.6657, 18.9741, 12.4136]), rtol=1e-4, atol=0)


def test_unlabelled_items_do_not_count():
    labelled = items(0, 1, 1)
    mixed = [*labelled, {"image": "a"}, {"image": "b", "label": None}]
    assert class_weights(mixed, 2).tolist() == class_weights(labelled, 2).tolist() == [3.0, 1.5]


def test_order_does_not_matter_and_equal_classes_weigh_the_same():
    assert class_weights(items(2, 0, np.int64(1), 1, 0, 2), 3).tolist() == [3.0, 3.0, 3.0]


def test_other_key():
    assert class_weights([{"grade": 0}], 1, label_key="grade").tolist() == [1.0]


def test_classes_without_items_are_named():
    with pytest.raises(ValueError, match="no labelled item of class 1, 3 of 4"):
        class_weights(items(0, 2, 2), 4)
    with pytest.raises(ValueError, match="no labelled item of class 0, 1 of 2"):
        class_weights([{"image": "a"}], 2)


@pytest.mark.parametrize("label", [2, -1, 1.0, "1", True])
def test_labels_that_are_no_class(label):
    with pytest.raises(ValueError, match=f"label must be an integer from 0 to 1, got {label!r}"):
        class_weights(items(0, 1, label), 2)
