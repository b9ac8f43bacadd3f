"""Small bundles in the model zoo's layout, each with tiny generated data."""

import json
import shutil
import sys
from pathlib import Path

import nibabel
import numpy as np
import torch
from monai.bundle import ConfigParser, ConfigWorkflow
from monai.utils import set_determinism
from PIL import Image

ROOT = Path(__file__).parents[1]
KEYS = ["image", "label"]
SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20220324.json"
CASES = 3

# Heads of a network of one's own kind are the business of a loss of one's own, in the bundle's scripts.
HEADS_LOSS = '''
from monai.losses import DiceCELoss
from torch import nn


class HeadsLoss(nn.Module):
    """The mean over all heads."""

    def __init__(self):
        super().__init__()
        self.loss = DiceCELoss(to_onehot_y=True, softmax=True)

    def forward(self, heads, label):
        return sum(self.loss(head, label) for head in heads.unbind(1)) / heads.shape[1]
'''


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=4) + "\n")


def volumes(folder, shape):
    """CT-like volumes with a bright ball, which is the label."""
    random = np.random.default_rng(0)
    for case in range(CASES):
        grid = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"))
        centre = np.array(shape).reshape(-1, 1, 1, 1) * random.uniform(0.4, 0.6)
        ball = np.linalg.norm(grid - centre, axis=0) < min(shape) / 4
        for name, values in (("imagesTr", ball * 100.0 + random.normal(0, 10, shape)), ("labelsTr", ball)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            image = nibabel.Nifti1Image(values.astype(np.float32), np.eye(4))
            nibabel.save(image, folder / name / f"case_{case}.nii.gz")


def frames(folder, size):
    """Colour frames with a bright disc, which is the label."""
    random = np.random.default_rng(0)
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for case in range(CASES):
        x, y = np.ogrid[:size, :size]
        disc = (x - size * random.uniform(0.3, 0.7)) ** 2 + (y - size / 2) ** 2 < (size / 5) ** 2
        noise = random.integers(0, 80, (size, size, 3))
        Image.fromarray((noise + 150 * disc[..., None]).astype(np.uint8)).save(folder / "imagesTr" / f"{case}.png")
        Image.fromarray(disc.astype(np.uint8) * 255).save(folder / "labelsTr" / f"{case}.png")


def head(kind="nii.gz"):
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "ckpt_dir": "$@bundle_root + '/models'",
        "output_dir": "$@bundle_root + '/eval'",
        "dataset_dir": "/workspace/data/task",
        "images": f"$sorted(glob.glob(@dataset_dir + '/imagesTr/*.{kind}'))",
        "labels": f"$sorted(glob.glob(@dataset_dir + '/labelsTr/*.{kind}'))",
        "val_interval": 1,
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    }


def loading(keys, *more):
    return [
        {"_target_": "LoadImaged", "keys": keys},
        {"_target_": "EnsureChannelFirstd", "keys": keys},
        *more,
        {"_target_": "EnsureTyped", "keys": keys},
    ]


def reading(activation, classes, keys=KEYS):
    """Post-processing of a segmentation: labels for metrics with ``keys``, a mask for a file without."""
    prediction = {"_target_": "Activationsd", "keys": "pred", activation: True}
    if activation == "sigmoid":
        return [prediction, {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5}]
    if keys is None:
        return [prediction, {"_target_": "AsDiscreted", "keys": "pred", "argmax": True}]
    discrete = {"_target_": "AsDiscreted", "keys": ["pred", "label"], "argmax": [True, False], "to_onehot": classes}
    return [prediction, discrete]


def segmentation(network, loss, transforms, crop, activation="softmax", kind="nii.gz", classes=2, window=None):
    """``train.json`` as most bundles of the zoo have it."""
    items = "$[{'image': i, 'label': l} for i, l in zip(@images[%s], @labels[%s])]"
    stats = {"_target_": "StatsHandler", "tag_name": "train_loss"}
    stats["output_transform"] = "$monai.handlers.from_engine(['loss'], first=True)"
    saver = {
        "_target_": "CheckpointSaver",
        "save_dir": "@ckpt_dir",
        "save_dict": {"model": "@network"},
        "save_key_metric": True,
        "key_metric_filename": "model.pt",
    }
    return {
        **head(kind),
        "network_def": network,
        "network": "$@network_def.to(@device)",
        "loss": loss,
        "optimizer": {"_target_": "torch.optim.Adam", "params": "$@network.parameters()", "lr": 0.01},
        "train": {
            "deterministic_transforms": transforms,
            "random_transforms": crop,
            "preprocessing": {
                "_target_": "Compose",
                "transforms": "$@train#deterministic_transforms + @train#random_transforms",
            },
            "dataset": {"_target_": "Dataset", "data": items % ("1:", "1:"), "transform": "@train#preprocessing"},
            "dataloader": {
                "_target_": "DataLoader",
                "dataset": "@train#dataset",
                "batch_size": 2,
                "shuffle": True,
                "num_workers": 0,
            },
            "inferer": {"_target_": "SimpleInferer"},
            "postprocessing": {"_target_": "Compose", "transforms": reading(activation, classes)},
            "handlers": [
                {
                    "_target_": "ValidationHandler",
                    "validator": "@validate#evaluator",
                    "epoch_level": True,
                    "interval": "@val_interval",
                },
                stats,
            ],
            "trainer": {
                "_target_": "SupervisedTrainer",
                "max_epochs": 2,
                "device": "@device",
                "train_data_loader": "@train#dataloader",
                "network": "@network",
                "loss_function": "@loss",
                "optimizer": "@optimizer",
                "inferer": "@train#inferer",
                "train_handlers": "@train#handlers",
            },
        },
        "validate": {
            "preprocessing": {"_target_": "Compose", "transforms": "%train#deterministic_transforms"},
            "dataset": {"_target_": "Dataset", "data": items % (":1", ":1"), "transform": "@validate#preprocessing"},
            "dataloader": {"_target_": "DataLoader", "dataset": "@validate#dataset", "batch_size": 1},
            "inferer": window or {"_target_": "SimpleInferer"},
            "postprocessing": "%train#postprocessing",
            "handlers": [{"_target_": "StatsHandler", "iteration_log": False}, saver],
            "key_metric": {
                "val_mean_dice": {
                    "_target_": "MeanDice",
                    "include_background": activation == "sigmoid",
                    "output_transform": "$monai.handlers.from_engine(['pred', 'label'])",
                }
            },
            "evaluator": {
                "_target_": "SupervisedEvaluator",
                "device": "@device",
                "val_data_loader": "@validate#dataloader",
                "network": "@network",
                "inferer": "@validate#inferer",
                "postprocessing": "@validate#postprocessing",
                "key_val_metric": "@validate#key_metric",
                "val_handlers": "@validate#handlers",
            },
        },
        "initialize": ["$monai.utils.set_determinism(seed=123)"],
        "run": ["$@train#trainer.run()"],
    }


EVALUATE = {
    "validate#handlers": [
        {
            "_target_": "CheckpointLoader",
            "load_path": "$@ckpt_dir + '/model.pt'",
            "load_dict": {"model": "@network"},
        },
        {"_target_": "StatsHandler", "iteration_log": False},
    ],
    "run": ["$@validate#evaluator.run()"],
}


def inference(train, network=None, window=None, transforms=None, post=None, folder="imagesTr", kind="nii.gz"):
    """``inference.json`` with a network definition of its own."""
    names = ("imports", "bundle_root", "output_dir", "dataset_dir", "device")
    save = {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir", "output_ext": f".{kind}"}
    if kind == "png":
        save |= {"scale": 255, "output_dtype": "$np.uint8"}
    return {
        **{name: train[name] for name in names},
        "datalist": f"$sorted(glob.glob(@dataset_dir + '/{folder}/*.{kind}'))",
        "network_def": network or train["network_def"],
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": transforms},
        "dataset": {
            "_target_": "Dataset",
            "data": "$[{'image': i} for i in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": window or {"_target_": "SimpleInferer"},
        "postprocessing": {"_target_": "Compose", "transforms": [*post, save]},
        "handlers": [{"_target_": "StatsHandler", "iteration_log": False}],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "checkpointloader": {
            "_target_": "CheckpointLoader",
            "load_path": "$@bundle_root + '/models/model.pt'",
            "load_dict": {"model": "@network"},
        },
        "initialize": ["$monai.utils.set_determinism(seed=123)", "$@checkpointloader(@evaluator)"],
        "run": ["$@evaluator.run()"],
    }


def metadata(task, channels, shape, outputs, classes=False):
    """``metadata.json`` of the schema that most bundles of the zoo still have."""
    image = {
        "type": "image",
        "format": "magnitude",
        "num_channels": channels,
        "spatial_shape": list(shape),
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": True,
        "channel_def": {"0": "image"},
    }
    pred = {
        **image,
        "format": "classes" if classes else "segmentation",
        "num_channels": outputs,
        "channel_def": {str(channel): f"class {channel}" for channel in range(outputs)},
    }
    if not classes and outputs > 1:
        pred["channel_def"]["0"] = "background"
    if classes:
        pred |= {"type": "probabilities", "spatial_shape": [1, outputs]}
    return {
        "schema": SCHEMA,
        "version": "0.3.1",
        "changelog": {"0.3.1": "update", "0.1.0": "complete the model package"},
        "monai_version": "0.9.1",
        "pytorch_version": "1.12.0",
        "numpy_version": "1.21.2",
        "optional_packages_version": {"nibabel": "3.2.1", "pytorch-ignite": "0.4.9"},
        "task": task,
        "description": f"A trained model for {task}",
        "authors": "somebody",
        "copyright": "Copyright (c) somebody",
        "eval_metrics": {"mean_dice": 0.96},
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": pred}},
    }


IMAGE_3D = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
SCALE = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -57, "a_max": 164, "b_min": 0, "b_max": 1}
DICE_CE = {"_target_": "DiceCELoss", "to_onehot_y": True, "softmax": True, "squared_pred": True}


def window(size):
    return {"_target_": "SlidingWindowInferer", "roi_size": [size] * 3, "sw_batch_size": 2, "overlap": 0.25}


def spleen(root):
    """A U-Net on patches of CT, evaluated by a sliding window; several processes."""
    network = {
        "_target_": "UNet",
        **IMAGE_3D,
        "channels": [16, 32, 64],
        "strides": [2, 2],
        "num_res_units": 1,
        "norm": "batch",
    }
    crop = {
        "_target_": "RandCropByPosNegLabeld",
        "keys": KEYS,
        "label_key": "label",
        "spatial_size": [16] * 3,
        "num_samples": 2,
    }
    train = segmentation(network, DICE_CE, loading(KEYS, SCALE), [crop], window=window(16))
    train["initialize"].append("$setattr(torch.backends.cudnn, 'benchmark', True)")
    several = {
        "device": "$torch.device(f'cuda:{dist.get_rank()}')",
        "network": {
            "_target_": "torch.nn.parallel.DistributedDataParallel",
            "module": "$@network_def.to(@device)",
            "device_ids": ["@device"],
        },
        "train#trainer#train_handlers": "$@train#handlers[: -1 if dist.get_rank() > 0 else None]",
        "initialize": [
            "$import torch.distributed as dist",
            "$dist.is_initialized() or dist.init_process_group(backend='nccl')",
            "$monai.utils.set_determinism(seed=123)",
        ],
        "run": ["$@train#trainer.run()"],
    }
    post = reading("softmax", 2, None)
    configs = {
        "train.json": train,
        "evaluate.json": EVALUATE,
        "multi_gpu_train.json": several,
        "inference.json": inference(train, window=window(16), transforms=loading("image", SCALE), post=post),
        "metadata.json": metadata("spleen segmentation", 1, (16, 16, 16), 2),
    }
    volumes(root.with_name("data"), (24, 24, 24))
    return configs


def segresnet_ds(root):
    """Deep supervision: in training a list of heads; channels as a key; parameter groups; a schedule."""
    network = {
        "_target_": "monai.networks.nets.SegResNetDS",
        **IMAGE_3D,
        "out_channels": "@num_classes",
        "init_filters": "@filters",
        "blocks_down": [1, 1, 1],
        "dsdepth": 2,
    }
    loss = {"_target_": "DeepSupervisionLoss", "loss": DICE_CE}
    train = segmentation(network, loss, loading(KEYS, SCALE), [])
    train = {"num_classes": 2, "filters": 16, "epochs": 2, **train}
    train["optimizer"] = {
        "_target_": "torch.optim.AdamW",
        "params": [
            {"params": "$@network.encoder.parameters()", "lr": 0.005},
            {"params": "$@network.up_layers.parameters()", "lr": 0.01},
        ],
    }
    train["lr_scheduler"] = {
        "_target_": "torch.optim.lr_scheduler.CosineAnnealingLR",
        "optimizer": "@optimizer",
        "T_max": "@epochs",
    }
    train["train"]["handlers"].append({"_target_": "LrScheduleHandler", "lr_scheduler": "@lr_scheduler"})
    train["train"]["trainer"]["max_epochs"] = "@epochs"
    theirs = inference(
        train,
        {**network, "out_channels": 2, "init_filters": 16},
        None,
        loading("image", SCALE),
        reading("softmax", 2, None),
    )
    volumes(root.with_name("data"), (16, 16, 16))
    return {
        "train.json": train,
        "evaluate.json": EVALUATE,
        "inference.json": theirs,
        "metadata.json": metadata("segmentation with deep supervision", 1, (16, 16, 16), 2),
    }


def dynunet(root):
    """Stacked heads, and a loss in the bundle's own scripts."""
    network = {
        "_target_": "DynUNet",
        **IMAGE_3D,
        "kernel_size": [3, 3, 3],
        "strides": [1, 2, 2],
        "upsample_kernel_size": [2, 2],
        "filters": [16, 24, 32],
        "deep_supervision": True,
        "deep_supr_num": 1,
    }
    train = segmentation(network, {"_target_": "scripts.losses.HeadsLoss"}, loading(KEYS, SCALE), [])
    (root / "scripts").mkdir(parents=True)
    (root / "scripts" / "__init__.py").write_text("from . import losses\n")
    (root / "scripts" / "losses.py").write_text(HEADS_LOSS)
    volumes(root.with_name("data"), (16, 16, 16))
    return {
        "train.json": train,
        "evaluate.json": EVALUATE,
        "inference.json": inference(train, None, None, loading("image", SCALE), reading("softmax", 2, None)),
        "metadata.json": metadata("segmentation with a DynUNet", 1, (16, 16, 16), 2),
    }


def swin_unetr(root):
    """An older bundle: one list of steps, somebody's root, no evaluation."""
    network = {
        "_target_": "SwinUNETR",
        **IMAGE_3D,
        "feature_size": 24,
        "depths": [1, 1, 1, 1],
        "window_size": 2,
        "use_checkpoint": True,
    }
    train = segmentation(network, DICE_CE, loading(KEYS, SCALE), [])
    train["bundle_root"] = "/workspace/bundles/swin_unetr_segmentation"
    train["train"]["trainer"]["max_epochs"] = 1
    train["training"] = [*train.pop("initialize"), *train.pop("run")]
    theirs = inference(train, None, None, loading("image", SCALE), reading("softmax", 2, None))
    theirs["evaluating"] = [*theirs.pop("initialize"), *theirs.pop("run")]
    volumes(root.with_name("data"), (32, 32, 64))
    return {
        "train.json": train,
        "inference.json": theirs,
        "metadata.json": metadata("segmentation with a SwinUNETR", 1, (32, 32, 64), 2),
    }


def densenet(root):
    """A classifier with all parts at the top, keys by reference, and no file named model.pt."""
    keys = {"image": "$monai.utils.CommonKeys.IMAGE", "label": "$monai.utils.CommonKeys.LABEL"}
    train = {
        **head("png"),
        **keys,
        "pred": "$monai.utils.CommonKeys.PRED",
        "ckpt_path": "$@bundle_root + '/models/model.pt'",
        "num_classes": 3,
        "num_epochs": 2,
        "network_def": {
            "_target_": "DenseNet121",
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": "@num_classes",
            "init_features": 16,
            "growth_rate": 8,
            "block_config": [2, 2],
        },
        "network": "$@network_def.to(@device)",
        "items": "$[{@image: i, @label: n % @num_classes} for n, i in enumerate(@images)]",
        "base_transforms": [
            {"_target_": "LoadImaged", "keys": "@image", "reverse_indexing": False},
            {"_target_": "Lambdad", "keys": "@image", "func": "$lambda x: x.mean(-1)[None]"},
            {"_target_": "ScaleIntensityd", "keys": "@image"},
        ],
        "preprocessing": {"_target_": "Compose", "transforms": "@base_transforms"},
        "train_dataset": {"_target_": "Dataset", "data": "@items", "transform": "@preprocessing"},
        "train_dataloader": {"_target_": "DataLoader", "dataset": "@train_dataset", "batch_size": 3, "shuffle": True},
        "val_dataloader": {"_target_": "DataLoader", "dataset": "@train_dataset", "batch_size": 3},
        "lossfn": {"_target_": "torch.nn.CrossEntropyLoss", "reduction": "sum"},
        "optimizer": {"_target_": "torch.optim.Adam", "params": "$@network.parameters()", "lr": 0.001},
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "@pred", "softmax": True},
                {
                    "_target_": "AsDiscreted",
                    "keys": ["@pred", "@label"],
                    "argmax": [True, False],
                    "to_onehot": "@num_classes",
                },
            ],
        },
        "val_handlers": [{"_target_": "StatsHandler", "iteration_log": False}],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@val_dataloader",
            "network": "@network",
            "postprocessing": "@postprocessing",
            "key_val_metric": {
                "val_accuracy": {
                    "_target_": "ignite.metrics.Accuracy",
                    "output_transform": "$monai.handlers.from_engine([@pred, @label])",
                }
            },
            "val_handlers": "@val_handlers",
        },
        "metriclogger": {"_target_": "MetricLogger", "evaluator": "@evaluator"},
        "handlers": [
            "@metriclogger",
            {
                "_target_": "CheckpointLoader",
                "_disabled_": "$not os.path.exists(@ckpt_path)",
                "load_path": "@ckpt_path",
                "load_dict": {"model": "@network"},
            },
            {"_target_": "ValidationHandler", "validator": "@evaluator", "epoch_level": True, "interval": 1},
        ],
        "trainer": {
            "_target_": "SupervisedTrainer",
            "max_epochs": "@num_epochs",
            "device": "@device",
            "train_data_loader": "@train_dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "loss_function": "@lossfn",
            "optimizer": "@optimizer",
            "train_handlers": "@handlers",
        },
        "run": ["$@trainer.run()"],
    }
    transforms = [{**step, "keys": "image"} for step in train["base_transforms"]]
    softmax = [{"_target_": "Activationsd", "keys": "pred", "softmax": True}]
    theirs = inference(train, {**train["network_def"], "out_channels": 3}, None, transforms, softmax, kind="png")
    theirs["postprocessing"]["transforms"][-1] = {
        "_target_": "SaveClassificationd",
        "keys": "pred",
        "output_dir": "@output_dir",
        "filename": "predictions.csv",
        "meta_keys": "image_meta_dict",
        "_disabled_": True,
    }
    frames(root.with_name("data"), 32)
    return {
        "train.json": train,
        "inference.json": theirs,
        "metadata.json": metadata("classification", 1, (32, 32), 3, classes=True),
    }


def endoscopy(root):
    """One channel, read by a sigmoid."""
    network = {
        "_target_": "UNet",
        "spatial_dims": 2,
        "in_channels": 3,
        "out_channels": 1,
        "channels": [8, 16, 32],
        "strides": [2, 2],
    }
    scale = {"_target_": "ScaleIntensityd", "keys": KEYS}
    train = segmentation(
        network, {"_target_": "DiceLoss", "sigmoid": True}, loading(KEYS, scale), [], "sigmoid", kind="png"
    )
    transforms = loading("image", {**scale, "keys": "image"})
    post = reading("sigmoid", 1)
    frames(root.with_name("data"), 32)
    return {
        "train.json": train,
        "evaluate.json": EVALUATE,
        "inference.json": inference(train, None, None, transforms, post, kind="png"),
        "metadata.json": metadata("endoscopic tool segmentation", 3, ("8*n", "8*n"), 1),
    }


MAKERS = {
    "spleen_ct_segmentation": spleen,
    "segresnet_ds_segmentation": segresnet_ds,
    "dynunet_segmentation": dynunet,
    "swin_unetr_segmentation": swin_unetr,
    "densenet_classification": densenet,
    "endoscopic_tool_segmentation": endoscopy,
}


def forget_scripts():
    for name in [name for name in sys.modules if name.partition(".")[0] == "scripts"]:
        del sys.modules[name]


def run(root, *names, kind="train", run_id=None, **overrides):
    """A bundle's configuration files, run as ``python -m monai.bundle run`` does."""
    configs = [path for name in names for path in (root / "configs").glob(f"{name}.*")]
    flow = ConfigWorkflow(
        config_file=[str(path) for path in configs],
        meta_file=str(root / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type=kind,
        run_id=run_id or "run",
        bundle_root=str(root),
        device="cpu",
        **overrides,
    )
    path = list(sys.path)
    try:
        flow.initialize()
        flow.run()
        flow.finalize()
    finally:
        sys.path[:] = path
        forget_scripts()
        set_determinism(None)
    return flow


def make(name, root):
    """Files of the bundle of a name at ``root``, its data beside it; without weights."""
    for file, content in MAKERS[name](root).items():
        write(root / "configs" / file, content)
    (root / "docs").mkdir()
    (root / "docs" / "README.md").write_text(f"# {name}\n")
    shutil.copyfile(ROOT / "LICENSE", root / "LICENSE")


def save_weights(root, parser=None):
    """Weights of the network that a run has made, or as chance makes them."""
    if parser is None:
        parser = ConfigParser()
        parser.read_config(str(root / "configs" / "train.json"))
    (root / "models").mkdir(exist_ok=True)
    torch.save(parser.get_parsed_content("network_def").state_dict(), root / "models" / "model.pt")
