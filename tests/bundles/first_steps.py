"""The first steps of the bundles with frozen teachers, on generated data and random weights."""

import torch
from monai.engines.utils import IterationEvents

from monai_kd.data import make_ct_cases, make_endoscopy_images, make_polyp_frames

from .running import Bundle
from .test_hdkd_skin_lesion_classification import settings as hdkd_settings
from .test_hdkd_skin_lesion_classification import write_lesions
from .test_hlfd_tumor_segmentation import settings as hlfd_settings
from .test_hlfd_tumor_segmentation import some_cases
from .test_kdas_polyp_segmentation import settings as kdas_settings
from .test_mhakd_gi_endoscopy_classification import settings as mhakd_settings

NAMES = [
    "hdkd_skin_lesion_classification",
    "hlfd_kidney_tumor_segmentation",
    "hlfd_liver_tumor_segmentation",
    "kdas_polyp_segmentation",
    "mhakd_gi_endoscopy_classification",
]


def prepared(name, data, folder):
    """Settings of a run, its data made and its teachers' checkpoints written."""
    method, organ = name.split("_")[:2]
    if method == "hlfd":
        make_ct_cases(data, 8, organ=organ, ids=some_cases(organ), size=(40, 40, 32), spacing=(8.0, 8.0, 8.0))
        common = hlfd_settings(organ, data, folder)
    elif method == "kdas":
        common = kdas_settings(make_polyp_frames(data, count=20, size=(64, 80)), folder)
    elif method == "hdkd":
        common = hdkd_settings(write_lesions(data), folder)
    else:
        common = mhakd_settings(make_endoscopy_images(data, count=40, size=32), folder)
    torch.manual_seed(5)
    parser = Bundle(name).unstarted("train.json", **common)
    (folder / "models").mkdir()
    for file, network in teachers(parser).items():
        torch.save(network.state_dict(), folder / "models" / file)
    if "fusion_def" in parser:  # otherwise drawn behind the teachers, of which not all draw the same
        torch.save(parser.get_parsed_content("fusion_def").state_dict(), folder / "models" / "fusion.pt")
        common["fusion_checkpoint"] = str(folder / "models" / "fusion.pt")
    return common


def teachers(parser):
    """The teachers' networks by the names of their checkpoints."""
    if "teachers_def" in parser:
        return {f"teacher_{key}.pt": net for key, net in parser.get_parsed_content("teachers_def").items()}
    return {"teacher.pt": parser.get_parsed_content("teacher_def")}


def first_steps(name, common, *files, **more):
    """Teachers by name, the losses of each step, and the student behind them."""
    flow = Bundle(name).workflow("train.json", *files, **{**common, **more})
    flow.initialize()
    trainer = flow.parser.get_parsed_content("train#trainer")
    seen = []
    trainer.add_event_handler(IterationEvents.LOSS_COMPLETED, lambda engine: seen.append(terms(engine.state.output)))
    flow.run()
    flow.finalize()
    key = "teachers" if "teachers" in flow.parser else "teacher"
    found = flow.parser.get_parsed_content(key)
    served = found if isinstance(found, dict) else {"teacher": found}
    return served, seen, flow.parser.get_parsed_content("network_def")


def terms(output):
    return {key: value.item() for key, value in output.items() if isinstance(value, torch.Tensor) and value.ndim == 0}
