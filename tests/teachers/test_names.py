from __future__ import annotations

import pytest

from monai_kd.teachers import check_teacher_names

KNOWN = {"resnet50": "a.pt", "densenet121": "b.pt"}


@pytest.mark.parametrize("names", [["resnet50"], ["densenet121", "resnet50"], ("densenet121",)])
def test_known_names_pass(names):
    check_teacher_names(names, KNOWN)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["resnet50", "resnet51"], "no teacher is named 'resnet51'; known: resnet50, densenet121"),
        ("resnet50", r"such as \['resnet50'\], got the text 'resnet50'"),
        ([], r"one or more .*got \[\]"),
        (["resnet50", "resnet50"], "each of them once"),
    ],
)
def test_what_is_no_choice_of_teachers_is_refused(names, said):
    with pytest.raises(ValueError, match=said):
        check_teacher_names(names, KNOWN)
