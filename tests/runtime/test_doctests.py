from __future__ import annotations

import doctest
import importlib
import pkgutil

import numpy as np
import pytest

import monai_kd.runtime

MODULES = [module.name for module in pkgutil.iter_modules(monai_kd.runtime.__path__)]
WITH_EXAMPLES = {"description", "exported", "grids", "intensity", "resampling", "resizing", "windows"}


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    result = doctest.testmod(importlib.import_module(f"monai_kd.runtime.{name}"), extraglobs={"np": np})
    assert result.failed == 0
    assert (result.attempted > 0) == (name in WITH_EXAMPLES)
