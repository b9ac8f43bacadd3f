"""The trainings that are held against each other, in one process and in several, and the data they need."""

import json

import torch

from monai_kd.data import HAM10000_CLASSES, make_ct_cases, make_endoscopy_images, make_polyp_frames

from ..bundles import test_crckd_skin_lesion_classification as crckd
from ..bundles import test_hdkd_skin_lesion_classification as hdkd
from ..bundles import test_hlfd_tumor_segmentation as hlfd
from ..bundles import test_kdas_polyp_segmentation as kdas
from ..bundles import test_mhakd_gi_endoscopy_classification as mhakd
from ..bundles.first_steps import teachers
from ..bundles.running import Bundle

KDAS, KIDNEY, LIVER = "kdas_polyp_segmentation", "hlfd_kidney_tumor_segmentation", "hlfd_liver_tumor_segmentation"
CRCKD, HDKD = "crckd_skin_lesion_classification", "hdkd_skin_lesion_classification"
MHAKD = "mhakd_gi_endoscopy_classification"

# Items with a label, items without, and the global batch: four processes have as many each. The cases that validate
# they share unevenly. Steps are small, for where a ReLU of one run is open and that of the other is not, gradients are
# no longer equal.
CT = {"labelled": 4, "unlabelled": 4, "validation": 5, "batch": 4, "learning_rate": 0.05}
FRAMES = {"labelled": 8, "unlabelled": 4, "validation": 5, "batch": 4, "learning_rate": 0.2}
# The last batch of an epoch is half a batch.
CLASSES = {"labelled": 12, "unlabelled": 12, "validation": 5, "batch": 8, "learning_rate": 0.01}
UNEVEN = {"labelled": 13, "unlabelled": 11, "validation": 5, "batch": 12, "learning_rate": 0.01}

SMOOTH = {"network_def#act_name": "gelu"}
FOLDS = {"teacher_checkpoints": "$[@teacher_checkpoint] * 2"}
AT_REST = {"epochs": 1, "epoch_length": 1, "learning_rate": 1e-30}
SMOTE = {"smote_targets": {"akiec": 4, "bcc": 4}, "smote_neighbors": 1}

LAW = {
    "kdas": (KDAS, [], FRAMES, {}),
    "kdas baseline": (KDAS, ["baseline.json"], FRAMES, {}),
    "kidney": (KIDNEY, [], CT, SMOOTH),
    "kidney five folds": (KIDNEY, ["five_folds.json"], CT, {**SMOOTH, **FOLDS}),
    "kidney fast student": (KIDNEY, ["fast_student.json"], CT, {**SMOOTH, "network_def#filters": [4, 8, 8]}),
    "liver": (LIVER, [], CT, SMOOTH),
    "crckd": (CRCKD, [], CLASSES, {"negatives": 64}),
    "hdkd": (HDKD, [], CLASSES, {}),
    "hdkd smote": (HDKD, ["smote.json"], CLASSES, SMOTE),
    "mhakd": (MHAKD, [], CLASSES, {"response_weight": 1.0}),
    "mhakd mean teachers": (MHAKD, ["mean_teachers.json"], CLASSES, {"feature_weight": 1.0}),
}
# Trained as good as not at all: one network validates in one process and in several.
VALIDATION = {
    "kdas at rest": (KDAS, [], FRAMES, AT_REST),
    "kidney at rest": (KIDNEY, [], CT, {**SMOOTH, **AT_REST}),
    "liver at rest": (LIVER, [], CT, {**SMOOTH, **AT_REST}),
}
# What the law must see: PyTorch's mean over each process's own class weights.
WRONG = {"hdkd": (HDKD, [], CLASSES, {"loss_function#_target_": "torch.nn.CrossEntropyLoss"})}
# As they are: with what is drawn and batch statistics, and counts that no number of processes divides.
AS_THEY_ARE = {
    "crckd": (CRCKD, [], UNEVEN, {}),
    "hdkd": (HDKD, ["smote.json"], UNEVEN, SMOTE),
}

REFUSED = {"kdas": (KDAS, [], {**FRAMES, "validation": 1}, {}), "kidney": (KIDNEY, [], {**CT, "validation": 1}, {})}

# Spread over the list, and numbered anew, as memory banks want it.
CHOSEN = (
    "lambda lists: (lambda some, given: {{'training': "
    "[item | ({{'index': i}} if 'index' in item else {{}}) for i, item in enumerate(some(given(True), {labelled}))] "
    "+ some(given(False), {unlabelled}), 'validation': some(lists['validation'], {validation}), 'test': []}})("
    "lambda items, count: [items[i * len(items) // count] for i in range(count)], "
    "lambda has: [item for item in lists['training'] if ('label' in item) is has])"
)


def made(name, folder):
    """Settings of a bundle's runs; its data are made and its teachers' checkpoints, of random weights, written."""
    data = folder / "data"
    if name in (KIDNEY, LIVER):
        organ = name.split("_")[1]
        split = hlfd.split_ids(organ)
        ids = split["training"][:8] + split["validation"][:5] + split["test"][:1]
        make_ct_cases(data, len(ids), organ=organ, ids=ids, size=(40, 40, 32), spacing=(8.0, 8.0, 8.0))
        common = {**hlfd.settings(organ, data, folder), "overlap": 0.0, "cache_dir": str(folder / "cache")}
    elif name == KDAS:
        make_polyp_frames(data, count=24, size=(64, 80))
        common = kdas.settings(data, folder, val_fraction=0.25, test_fraction=0.1)
    elif name == MHAKD:
        common = mhakd.settings(make_endoscopy_images(data, count=64, size=32), folder)
    else:
        crckd.write_lesions(data, dict.fromkeys(HAM10000_CLASSES, 6))
        common = (crckd if name == CRCKD else hdkd).settings(data, folder)
    common = {key: value for key, value in common.items() if key not in ("epochs", "epoch_length", "learning_rate")}
    return {**common, **_teachers(name, common, folder)}


def _teachers(name, common, folder):
    if name == CRCKD:
        return {}
    torch.manual_seed(5)
    paths = {}
    (folder / "models").mkdir(parents=True)
    for file, network in teachers(Bundle(name).unstarted("train.json", **common)).items():
        paths[file] = str(folder / "models" / file)
        torch.save(network.state_dict(), paths[file])
    if name == MHAKD:
        return {"teacher_checkpoints": {key: paths[f"teacher_{key}.pt"] for key in mhakd.NAMES}}
    return {"teacher_checkpoint": paths["teacher.pt"]}


def training(recipe, common, folder, processes=1):
    """Arguments of ``train``: by ``train.json``, or for several processes with ``multi_gpu_train.json``."""
    name, more, size, own = recipe
    bundle = Bundle(name)
    files = ("train.json", "multi_gpu_train.json")
    one, several = (json.loads((bundle.configs / file).read_text(encoding="utf-8")) for file in files)
    overrides = {
        **common,
        # Each process has a folder, so that it shows who writes.
        "ckpt_dir": f"$'{folder}/' + os.environ.get('RANK', '0') + '/models'",
        "output_dir": f"$'{folder}/' + os.environ.get('RANK', '0') + '/eval'",
        "labelled_fraction": 0.5,
        "epochs": 2,
        "batch_size": size["batch"] // processes,
        "learning_rate": size["learning_rate"],
        "optimizer#_target_": "torch.optim.SGD",
        "datalist": "$(" + CHOSEN.format(**size) + f")({one['datalist'].removeprefix('$')})",
        **own,
    }
    if processes > 1:
        del overrides["device"]
    else:  # the order of the samplers, for one process
        overrides |= {
            key: {**several[key], "num_replicas": 1, "rank": 0} for key in ("train#sampler", "unlabelled#sampler")
        }
        overrides |= {f"{part}#dataloader#sampler": f"@{part}#sampler" for part in ("train", "unlabelled")}
        overrides |= {f"{part}#dataloader#shuffle": False for part in ("train", "unlabelled")}
    configs = bundle.paths(["train.json", *["multi_gpu_train.json"] * (processes > 1), *more])
    return {"configs": configs, "overrides": overrides, "folder": str(folder)}
