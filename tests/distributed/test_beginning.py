"""What a training in several processes begins with, seen from one: who it needs, and who looks at the data."""

import json

import pytest
import torch

from monai_kd.errors import user_message

from ..bundles.running import BUNDLES, Bundle

NAMES = sorted(path.parents[1].name for path in BUNDLES.glob("*/configs/multi_gpu_train.json"))
FILES = ("train.json", "multi_gpu_train.json")


@pytest.mark.parametrize("gpus", [0, 2])
@pytest.mark.parametrize("name", NAMES)
def test_who_is_alone_is_told_how_to_start_several(name, gpus, monkeypatch):
    """Also where the device would be the GPU of the process's number, which nobody has given it."""
    for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    flow = Bundle(name).workflow(*FILES, bundle_root=str(BUNDLES / name))
    with pytest.raises(Exception) as caught:  # noqa: PT011
        flow.initialize()
    said = user_message(caught.value)
    assert said is not None
    assert "start it with torchrun, or leave multi_gpu_train.json out for one process" in said


@pytest.mark.parametrize("name", NAMES)
def test_one_process_checks_the_data_and_tells_the_others_what_it_has_left_out(name):
    one, several = (json.loads((Bundle(name).configs / file).read_text(encoding="utf-8")) for file in FILES)
    (alone,), (together,) = (
        [step for step in config["initialize"] if "raise_if_bad" in step] for config in (one, several)
    )
    assert together == f"{alone} if dist.get_rank() == 0 else @unreadable.hear()"
