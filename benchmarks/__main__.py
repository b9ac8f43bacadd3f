"""All benchmarks, or some: what they measured goes to a folder as JSON, and from there into a table."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).parent
NAMES = (
    "volume_step",
    "kdas_step",
    "hdkd_step",
    "crckd_step",
    "hlfd_step",
    "hlfd_losses",
    "class_contrastive",
    "structure_loss",
    "generic_losses",
    "windows_3d",
    "ct_to_mask",
    "ct_memory",
    "coarse_to_fine",
    "preprocessing",
    "pictures",
    "cold_start",
    "scaling",
)
_PACKAGES = ("torch", "monai", "numpy", "openvino", "nncf", "torchdistill")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", default=NAMES, help="run these alone")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: for a look, not for a result")
    parser.add_argument("--no-memory", action="store_true", help="measure time alone")
    parser.add_argument("--output", type=Path, help="folder of the JSON files (default: benchmarks/results, which "
                        "RESULTS.md is made from; with --quick demo_output/benchmarks)")  # fmt: skip
    options = parser.parse_args(arguments)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # one core, so that CPU time is time
        os.environ[name] = "1"
    if options.list:
        for name in NAMES:
            print(f"{name:18} {summary(import_module(f'benchmarks.{name}'))}")
        return 0
    target = options.output or (Path("demo_output", "benchmarks") if options.quick else HERE / "results")
    failed = []
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as scratch:
        os.environ["BENCHMARKS_SCRATCH"] = scratch  # what several processes share, such as an exported student
        for name in options.only:
            print(f"--- {name}", flush=True)
            try:
                record = run(name, options.quick, not options.no_memory)
            except Exception as error:  # the others are run all the same
                failed.append(name)
                print(f"    failed: {type(error).__name__}: {error}", flush=True)
                continue
            target.mkdir(parents=True, exist_ok=True)
            (target / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
            for bar in record["bars"]:
                print(f"    {bar['bar']:4} {bar['what']}: {bar['measured']}, {bar['limit']}", flush=True)
    from benchmarks.table import write_table

    target.mkdir(parents=True, exist_ok=True)
    page = HERE / "RESULTS.md" if target == HERE / "results" else target / "RESULTS.md"
    write_table(target, page)
    print(f"{page} says what was measured.")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, quick: bool, memory: bool = True) -> dict[str, Any]:
    """Run one benchmark: what it measured, as JSON holds it."""
    import torch

    from benchmarks.comparing import Found, measure, quartiles, typical
    from benchmarks.memory import megabytes_of

    torch.set_num_threads(1)
    module = import_module(f"benchmarks.{name}")
    cases = module.cases(quick)
    found: Found = {case.name: measure(case) for case in cases}
    for case in cases:
        for form, measured in found[case.name].items():
            if memory and case.memory:
                measured.megabytes = megabytes_of(name, case.name, form, quick)
    rows = []
    for case in cases:
        for form, measured in found[case.name].items():
            low, middle, high = quartiles(measured.seconds) if measured.seconds else (None, None, None)
            row = {"case": case.name, "form": form, "rounds": len(measured.seconds)}
            row |= {"seconds": middle, "low": low, "high": high, "megabytes": measured.megabytes}
            rows.append(row | {"value": typical(measured.values)})
    return {
        "benchmark": name,
        "what": summary(module),
        "about": (module.__doc__ or "").strip(),
        "quick": quick,
        "machine": machine(),
        "rows": rows,
        "bars": [bar.as_json() for bar in module.bars(found)],
    }


def summary(module: ModuleType) -> str:
    """The first line of a module's text."""
    return (module.__doc__ or "").strip().splitlines()[0]


def machine() -> dict[str, Any]:
    """What computed, as far as a ratio may depend on it."""
    cpu = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        models = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
        cpu = models[0] if models else cpu
    return {
        "cpu": cpu,
        "threads": 1,
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
