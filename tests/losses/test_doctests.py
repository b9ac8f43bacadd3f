from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import torch

import monai_kd.losses

MODULES = [f"monai_kd.losses.{module.name}" for module in pkgutil.iter_modules(monai_kd.losses.__path__)]


@pytest.mark.parametrize("name", [*MODULES, "monai_kd.testing"])
def test_examples_run(name):
    torch.manual_seed(0)
    module = importlib.import_module(name)
    result = doctest.testmod(module, extraglobs={"torch": torch})
    assert result.failed == 0
    assert result.attempted > 0 or name.rpartition(".")[2].startswith("_")


def test_every_public_loss_has_an_example():
    losses = [getattr(monai_kd.losses, name) for name in monai_kd.losses.__all__]
    assert [loss.__name__ for loss in losses if ">>>" not in (loss.__doc__ or "")] == []
