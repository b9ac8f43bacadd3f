"""Peak memory of ``inference.json`` of an HLFD bundle on a generated volume of 512 x 512 x 400 voxels, on a CPU.

Weights are random: memory does not depend on them. One run of the bundle, as a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np
import torch
from monai.bundle import ConfigParser

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--organ", choices=["kidney", "liver"], default="kidney")
    parser.add_argument("--size", type=int, nargs=3, default=[512, 512, 400], help="voxels")
    parser.add_argument("--spacing", type=float, nargs=3, default=[0.98, 0.98, 1.0], help="mm")
    parser.add_argument("--overlap", type=float, default=0.5, help="of the sliding window; changes the time alone")
    options = parser.parse_args()
    bundle = BUNDLES / f"hlfd_{options.organ}_tumor_segmentation"
    with tempfile.TemporaryDirectory() as folder:
        volume = np.full(options.size, -1000, np.int16)
        volume[tuple(slice(length // 5, -length // 5) for length in options.size[:2])] = 100
        nibabel.save(nibabel.Nifti1Image(volume, np.diag([*options.spacing, 1.0])), Path(folder, "ct.nii.gz"))
        del volume
        config = ConfigParser()
        config.read_config(str(bundle / "configs" / "inference.json"))
        torch.save(config.get_parsed_content("network_def").state_dict(), Path(folder, "model.pt"))
        command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", "--bundle_root", str(bundle)]
        command += ["--config_file", str(bundle / "configs" / "inference.json"), "--logging_file", "False"]
        command += ["--meta_file", str(bundle / "configs" / "metadata.json"), "--overlap", str(options.overlap)]
        command += ["--ckpt_dir", folder, "--dataset_dir", folder, "--output_dir", folder, "--device", "cpu"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6  # kB on Linux
    print(f"{options.organ}, {options.size} voxels of {options.spacing} mm: {peak:.2f} GB")


if __name__ == "__main__":
    main()
