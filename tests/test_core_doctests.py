from __future__ import annotations

import doctest
import importlib
import logging
import pkgutil

import pytest
import torch
from torch import nn

import monai_kd
import monai_kd.handlers

WITHOUT_EXAMPLES = {"errors", "checkpoints", "labelled"}
CORE = [
    "adapters",
    "checkpoints",
    "distiller",
    "errors",
    "labelled",
    "schedules",
    "settings",
    "taps",
    "teachers.cached",
    "teachers.ema",
    "teachers.fingerprint",
    "teachers.frozen",
    "teachers.names",
    "teachers.runtime",
    "teachers.views",
]
MODULES = CORE + [f"handlers.{module.name}" for module in pkgutil.iter_modules(monai_kd.handlers.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, monkeypatch):
    monkeypatch.setattr(logging.getLogger("monai_kd.DistillationHandler"), "disabled", True)  # its lines have the time
    torch.manual_seed(0)
    module = importlib.import_module(f"monai_kd.{name}")
    result = doctest.testmod(module, extraglobs={"torch": torch, "nn": nn})
    assert result.failed == 0
    if "._" not in name:  # what is private may do without
        assert (result.attempted > 0) == (name not in WITHOUT_EXAMPLES)


def test_every_name_at_the_top_exists():
    assert [name for name in monai_kd.__all__ if not hasattr(monai_kd, name)] == []
