from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import torch

import monai_kd.data

MODULES = [module.name for module in pkgutil.iter_modules(monai_kd.data.__path__) if not module.name.startswith("_")]


@pytest.mark.filterwarnings("ignore:.*part of the published cases")
@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    torch.manual_seed(0)
    result = doctest.testmod(importlib.import_module(f"monai_kd.data.{name}"), extraglobs={"torch": torch})
    assert result.failed == 0
