from __future__ import annotations

import doctest
import importlib
import pkgutil

import numpy as np
import pytest
import torch
from torch import nn

import monai_kd.report

MODULES = [module.name for module in pkgutil.iter_modules(monai_kd.report.__path__) if module.name != "__main__"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    torch.manual_seed(0)
    module = importlib.import_module(f"monai_kd.report.{name}")
    assert doctest.testmod(module, extraglobs={"torch": torch, "nn": nn, "np": np}).failed == 0
