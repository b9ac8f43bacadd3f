"""Networks in OpenVINO come and go in any order, and signals are taken as before."""

from __future__ import annotations

import subprocess
import sys

import pytest
from torch import nn

pytest.importorskip("openvino")

# With a stack for signals, as pytest and faulthandler have it, a handler runs where OpenVINO's plugin has put it.
IN_ANY_ORDER = """
import faulthandler, gc, os, signal, sys, time
import numpy as np
faulthandler.enable()
from monai_kd.runtime import load_exported

heard = set()
signal.signal(signal.SIGCHLD, lambda *_: heard.add("a child"))
networks = [load_exported(sys.argv[1], num_threads=1) for _ in range(3)]
for index in (0, 1, 0):
    del networks[index]
    gc.collect()
child = os.fork()
if not child:
    os._exit(0)
os.waitpid(child, 0)
time.sleep(0.1)
print(*heard)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="stacks for signals are OpenVINO's on Linux")
def test_signals_are_heard(export_network):
    folder = export_network(nn.Conv2d(1, 2, 1), (1, 8, 8))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_ANY_ORDER, str(folder)],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "a child\n"), done.stderr


def test_one_core_for_all():
    from monai_kd.runtime.engines import openvino_core

    assert openvino_core() is openvino_core()
