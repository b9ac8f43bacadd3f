"""Time and memory of class-guided contrast, drawn as released and as the expectation over all draws.

    python benchmarks/class_contrastive.py --help

One batch of features against banks of --images rows, classes as uneven as in APTOS-2019: the loss, its gradient at the
features and both heads, and the banks' update.

* expectation: ``ClassContrastiveLoss``, every row weighed by how often it would be drawn;
* sampled:     the same with ``sampled=True``, positives and negatives drawn in each step;
* released:    the computation of the released code: the drawn rows of both banks are gathered, (B, P + K, D), the
               exponentials kept, and the negatives' term repeated P times to be summed with the positives'. It gets its
               rows drawn: what drawing costs with NumPy, as its data set does, is told beside.

Above --released_up_to rows the released form is left out. Time is the processor time of all threads, forms in turn, the
median of the rounds. Memory is the growth of the process's largest resident size over one step (Linux), each form in a
process of its own in which tensors go back to the system as soon as they are freed (``MALLOC_MMAP_THRESHOLD_``, glibc).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from monai_kd.losses import ClassContrastiveLoss, ContrastMemory

APTOS = [1805, 370, 999, 193, 295]  # images of each grade
FORMS = ["expectation", "sampled", "released"]


class ReleasedForm:
    """The sampled loss as the released code computes it."""

    def __init__(self, memory: ContrastMemory, positives: int, negatives: int, temperature: float = 0.07) -> None:
        self.memory = memory
        self.positives = positives
        self.negatives = negatives
        self.temperature = temperature
        self.partitions = [-1.0, -1.0]

    def __call__(self, student: Tensor, teacher: Tensor, index: Tensor, table: Tensor) -> Tensor:
        """The loss of features (B, C) and drawn rows (B, P + K)."""
        ours, theirs = self.memory.embed(student, teacher)
        table = torch.cat([index.unsqueeze(1), table[:, 1:]], dim=1)
        scores = [
            self._scores(0, ours, self.memory.teacher_rows, table),
            self._scores(1, theirs, self.memory.student_rows, table),
        ]
        self.memory.update(index, ours, theirs)
        return self._contrast(scores[0]) + self._contrast(scores[1])

    def _scores(self, which: int, anchors: Tensor, rows: Tensor, table: Tensor) -> Tensor:
        drawn = rows.index_select(0, table.flatten()).view(*table.shape, -1)
        scores = torch.exp(torch.bmm(drawn, anchors.unsqueeze(2)) / self.temperature)
        if self.partitions[which] < 0:
            self.partitions[which] = (scores.mean() * len(rows)).item()
        return scores / self.partitions[which]

    def _contrast(self, scores: Tensor, eps: float = 1e-7) -> Tensor:
        noise = self.negatives / len(self.memory.labels)
        alike, others = scores.squeeze(2).split([self.positives, self.negatives], dim=1)
        positive = torch.log(alike / (alike + (noise + eps)))
        negative = torch.log(noise / (others + (noise + eps)))
        repeated = negative.reshape(-1, 1).repeat(1, self.positives)
        return -(positive.sum() + repeated.sum()) / (self.positives * len(scores))


def draw(labels: np.ndarray, index: np.ndarray, positives: int, negatives: int) -> Tensor:
    """Rows for each anchor, drawn one image after the other with NumPy."""
    generator = np.random.default_rng(0)
    alike = [np.flatnonzero(labels == c) for c in range(len(APTOS))]
    others = [np.flatnonzero(labels != c) for c in range(len(APTOS))]
    rows = []
    for i in index:
        own, rest = alike[labels[i]], others[labels[i]]
        first = generator.choice(own, positives, replace=len(own) < positives)
        rows.append(np.concatenate([first, generator.choice(rest, negatives, replace=len(rest) < negatives)]))
    return torch.from_numpy(np.stack(rows))


def step_of(form: str, images: int, options: argparse.Namespace) -> Callable[[], float]:
    """A function that makes one step, forward and backward, and returns the loss."""
    torch.manual_seed(0)
    shares = torch.tensor(APTOS, dtype=torch.float64)
    labels = torch.multinomial(shares, images, replacement=True)
    memory = ContrastMemory(labels, options.dimension, dimension=options.dimension)
    student, teacher = torch.randn(2, options.batch, options.dimension)
    student.requires_grad_()
    index = torch.randperm(images)[: options.batch]
    if form == "released":
        released = ReleasedForm(memory, options.positives, options.negatives)
        table = draw(labels.numpy(), index.numpy(), options.positives, options.negatives)

        def loss() -> Tensor:
            return released(student, teacher, index, table)

    else:
        ours = ClassContrastiveLoss(memory, options.positives, options.negatives, sampled=form == "sampled")

        def loss() -> Tensor:
            return ours(student, teacher, labels[index], index)

    def step() -> float:
        student.grad = None
        memory.zero_grad()
        value = loss()
        value.backward()
        return value.item()

    return step


def side_by_side(steps: dict[str, Callable[[], float]], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of each step, run in turn, and its first loss."""
    losses = {name: step() for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.process_time()
            step()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}, losses


def print_megabytes(form: str, images: int, options: argparse.Namespace) -> None:
    """The growth of the largest resident size over one step."""
    step_of(form, 100, options)()  # what torch loads on first use does not count
    step = step_of(form, images, options)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forget the largest size so far
    before = _largest_megabytes()
    step()
    print(_largest_megabytes() - before)


def _largest_megabytes() -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


def megabytes_of(form: str, images: int, options: argparse.Namespace) -> float:
    """``print_megabytes`` in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--form", form, "--images", str(images)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def seconds_of_drawing(images: int, options: argparse.Namespace) -> float:
    """Median of drawing the rows of a batch with NumPy."""
    shares = np.array(APTOS) / sum(APTOS)
    labels = np.random.default_rng(0).choice(len(APTOS), images, p=shares)
    times = []
    for _ in range(options.rounds):
        start = time.process_time()
        draw(labels, np.arange(options.batch), options.positives, options.negatives)
        times.append(time.process_time() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--images",
        type=int,
        nargs="+",
        default=[2930, 10_000, 100_000],
        help="rows of the banks (default: %(default)s)",
    )
    parser.add_argument("--released_up_to", type=int, default=10_000, help="rows (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="images a step (default: %(default)s)")
    parser.add_argument("--dimension", type=int, default=128, help="of embeddings (default: %(default)s)")
    parser.add_argument("--positives", type=int, default=20, help="P (default: %(default)s)")
    parser.add_argument("--negatives", type=int, default=4096, help="K (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.form:
        print_megabytes(options.form, options.images[0], options)
        return

    print(
        f"\nB {options.batch}, D {options.dimension}, P {options.positives}, K {options.negatives}, "
        f"{options.threads} thread(s), medians of {options.rounds} rounds\n"
    )
    print("| images | form | ms | / expectation | peak MB | / expectation | loss |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for images in options.images:
        forms = FORMS if images <= options.released_up_to else FORMS[:2]
        megabytes = {form: megabytes_of(form, images, options) for form in forms}
        seconds, losses = side_by_side({form: step_of(form, images, options) for form in forms}, options.rounds)
        for form in forms:
            times, sizes = (values[form] / values["expectation"] for values in (seconds, megabytes))
            print(
                f"| {images} | {form} | {1000 * seconds[form]:.2f} | {times:.1f} | {megabytes[form]:.1f} | {sizes:.1f} "
                f"| {losses[form]:.3f} |"
            )
    drawing = 1000 * seconds_of_drawing(options.images[0], options)
    print(f"\nDrawing the rows of a batch with NumPy, {options.images[0]} images: {drawing:.1f} ms")


if __name__ == "__main__":
    main()
