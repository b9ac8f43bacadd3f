import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["answers", "averaging", "exchange", "scores"])
def test_examples_run(name):
    result = doctest.testmod(importlib.import_module(f"monai_kd.federated.{name}"))
    assert (result.failed, result.attempted > 0) == (0, True)
