from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import monai_kd.inferers

MODULES = [module.name for module in pkgutil.iter_modules(monai_kd.inferers.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    result = doctest.testmod(importlib.import_module(f"monai_kd.inferers.{name}"))
    assert result.failed == 0
    assert result.attempted > 0
