"""NVFlare's simulator in a process of its own: ``python -m monai_kd.federated.simulator JOB FOLDER SITES AT_ONCE``."""

from __future__ import annotations

import os
import signal
import sys

__all__ = ["main"]


def main(job: str, workspace: str, sites: str, at_once: str) -> int:
    """Run a job; the exit status. SIGTERM ends it and its processes as Ctrl-C does."""
    from nvflare.private.fed.app.simulator.simulator_runner import SimulatorRunner

    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return int(SimulatorRunner(job, workspace, clients=sites, threads=int(at_once)).run() or 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
