from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import monai_kd.zoo

MODULES = [module.name for module in pkgutil.iter_modules(monai_kd.zoo.__path__)]
WITH_EXAMPLES = {"activation", "bottleneck", "default_terms", "scaling", "size_pattern"}


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    result = doctest.testmod(importlib.import_module(f"monai_kd.zoo.{name}"))
    assert result.failed == 0
    assert (result.attempted > 0) == (name in WITH_EXAMPLES)
