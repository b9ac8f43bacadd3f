"""How long processes take to start: the library, its command, and a deployed student that is ready to answer.

Each step is a Python process of its own, with its files in the system's cache.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable

from benchmarks.comparing import Bar, Case, Found, ratio
from benchmarks.students import picture_student

_STARTS = {
    "python": "pass",
    "import torch": "import torch",
    "import monai": "import monai",
    "import monai_kd": "import monai_kd",
    "import monai_kd.runtime": "import monai_kd.runtime",
    "monai-kd --help": "import sys; from monai_kd.cli import main; sys.exit(main(['--help']))",
    "deployed student": "from monai_kd.runtime import load_exported; load_exported({folder!r}, num_threads=1)",
}


def cases(quick: bool) -> list[Case]:
    forms = {name: _maker(code) for name, code in _STARTS.items()}
    return [Case("start", forms, rounds=3 if quick else 9, memory=False)]


def bars(found: Found) -> list[Bar]:
    (forms,) = found.values()
    median = {name: statistics.median(form.seconds) for name, form in forms.items()}
    return [
        Bar(
            "P14",
            "deployed student, ready / import monai",
            ratio(forms, "deployed student", "import monai"),
            0.125,
            True,
        ),
        Bar("P14", "import monai_kd adds, seconds", median["import monai_kd"] - median["python"], 0.3, most=True),
        Bar("P14", "monai-kd --help, seconds", median["monai-kd --help"], 1.0, most=True),
    ]


def _maker(code: str) -> Callable[[], Callable[[], None]]:
    def prepare() -> Callable[[], None]:
        script = code
        if "{folder" in code:
            script = code.format(folder=str(picture_student("mhakd_gi_endoscopy_classification")))

        def step() -> None:
            subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, stdout=subprocess.DEVNULL)

        return step

    return prepare
