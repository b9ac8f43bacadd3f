"""Bundles with data and teachers of a site, on a handful of generated cases and with tiny networks."""

from ..bundles import test_crckd_skin_lesion_classification as crckd
from ..bundles.first_steps import NAMES as WITH_FROZEN_TEACHERS
from ..bundles.first_steps import prepared

CRCKD = "crckd_skin_lesion_classification"
NAMES = [CRCKD, *WITH_FROZEN_TEACHERS]


def site(name, folder):
    """Settings of a run on the data of a site, which are made with its teachers' checkpoints; no folders of results."""
    if name == CRCKD:
        lesions = crckd.write_lesions(folder / "data", {**dict.fromkeys(crckd.HAM10000_CLASSES, 6), "nv": 8})
        common = {**crckd.settings(lesions, folder), "first_epoch": 1, "labelled_fraction": 0.5}
    else:
        common = prepared(name, folder / "data", folder)
        files = {path.stem.partition("_")[2]: str(path) for path in (folder / "models").glob("teacher*.pt")}
        common |= {"teacher_checkpoint": files[""]} if "" in files else {"teacher_checkpoints": files}
    return {key: value for key, value in common.items() if key not in ("ckpt_dir", "output_dir", "epochs")}
