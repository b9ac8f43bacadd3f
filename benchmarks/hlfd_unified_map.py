"""Memory and time of the unified importance map of HLFD, as the formula says it and as it is computed here.

    python benchmarks/hlfd_unified_map.py --help

A student's first feature (8 channels at --size) learns from three teacher features (64, 128 and 256 channels at 1/2,
1/4 and 1/8 of it), joined: the loss and its gradient at the student.

* literal:  joined, resized to the student's size, and then the powers;
* chunked:  ``ImportanceMapLoss``, which never holds the joined features at that size.

Memory is the growth of the process's largest resident size (``ru_maxrss``) from before the loss to after its backward
pass, the student's gradient (8 channels) included. Each form runs in a process of its own, in which large tensors go
back to the system as soon as they are freed (``MALLOC_MMAP_THRESHOLD_``, of glibc), so that the figure is that of the
tensors. Time is the processor time of all threads, the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from monai_kd.losses import ImportanceMapLoss


def literal(student: Tensor, teachers: list[Tensor]) -> Tensor:
    """The loss as the formula says it."""
    size = min((x.shape[2:] for x in teachers), key=lambda size: size.numel())
    joined = torch.cat([_resize(x, size) for x in teachers], dim=1)
    joined = _resize(joined, student.shape[2:])
    return (_map(student) - _map(joined)).square().sum(dim=1).mean()


def _resize(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=size, mode="trilinear", align_corners=False)


def _map(x: Tensor) -> Tensor:
    return F.normalize(x.pow(4).mean(dim=1).flatten(1), dim=1)


FORMS: dict[str, Callable[[Tensor, list[Tensor]], Tensor]] = {"literal": literal, "chunked": ImportanceMapLoss()}


def features(size: int, batch: int) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(0)
    student = torch.randn(batch, 8, size, size, size)
    return student, [torch.randn(batch, 64 * 2**i, *[size // 2 ** (i + 1)] * 3) for i in range(3)]


def measure(form: str, options: argparse.Namespace) -> None:
    """Print the loss, its gradient's norm, megabytes and seconds as JSON."""
    torch.set_num_threads(options.threads)
    loss = FORMS[form]
    student, teachers = features(16, 1)
    loss(student.requires_grad_(), teachers).backward()  # what torch loads on first use does not count
    student, teachers = features(options.size, options.batch)
    student.requires_grad_()
    before, seconds = _largest_megabytes(), []
    for _ in range(options.rounds):
        student.grad = None
        start = time.process_time()
        value = loss(student, teachers)
        value.backward()
        seconds.append(time.process_time() - start)
    assert student.grad is not None
    print(
        json.dumps(
            {
                "value": value.item(),
                "gradient": student.grad.norm().item(),
                "megabytes": _largest_megabytes() - before,
                "seconds": statistics.median(seconds),
            }
        )
    )


def _largest_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="side of the patch in voxels (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="patches (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.form:
        measure(options.form, options)
        return

    found = {}
    for form in FORMS:
        command = [sys.executable, __file__, *sys.argv[1:], "--form", form]
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "MALLOC_MMAP_THRESHOLD_": "1000000"}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found[form] = json.loads(done.stdout)
    print(f"\n{options.batch} x {options.size}^3, {options.threads} thread(s), {options.rounds} rounds\n")
    print("| form | peak MB | CPU seconds | loss | gradient norm |\n| --- | ---: | ---: | ---: | ---: |")
    for form, row in found.items():
        print(
            f"| {form} | {row['megabytes']:.0f} | {row['seconds']:.2f} | {row['value']:.6f} | {row['gradient']:.6g} |"
        )
    ratios = [found["literal"][key] / found["chunked"][key] for key in ("megabytes", "seconds")]
    print(f"\nliteral / chunked: memory {ratios[0]:.1f}, time {ratios[1]:.2f}")


if __name__ == "__main__":
    main()
