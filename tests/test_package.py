"""The package's front door."""

import subprocess
import sys

import pytest

import monai_kd

ALONE = """
import sys
import monai_kd
heavy = {"torch", "monai", "ignite", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""


def test_everything_named_is_there():
    assert {name for name in monai_kd.__all__ if getattr(monai_kd, name) is not None} == set(monai_kd.__all__)
    assert set(monai_kd.__all__) <= set(dir(monai_kd))


def test_imports_nothing_heavy_before_it_is_needed():
    assert subprocess.run([sys.executable, "-c", ALONE], check=False).returncode == 0


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Distillation'"):
        monai_kd.Distillation  # noqa: B018
