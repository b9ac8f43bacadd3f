"""NVFlare's client of a federation: what a :class:`FederatedSite` does when the server asks."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.utils.fl_model_utils import FLModelUtils

from monai_kd._files import write_whole
from monai_kd.errors import root_cause, user_message
from monai_kd.federated.exchange import FAILED, from_arrays, to_arrays
from monai_kd.federated.job import ERROR, SITE_SETTINGS
from monai_kd.federated.site import FederatedSite, Stopped

__all__ = ["DistillationExecutor"]

_FOLDER = "distillation"


class DistillationExecutor(Executor):
    """Trains and scores by the ``site.json`` of its job; a job that :func:`write_job` wrote names it.

    Tasks: "initial" sends the student as the site has drawn it, "train" trains a round, "validate" scores. What leaves
    the site is a :class:`SiteRound`, or in "validate" its scores and counts. An error is written to ``error.txt`` and
    the log here; the server gets its kind, not its message, in which paths and names of cases may be.
    """

    def __init__(self) -> None:
        super().__init__()
        self._site: FederatedSite | None = None
        self._folder: Path | None = None

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Do a task."""
        try:
            return FLModelUtils.to_shareable(self._do(task_name, shareable, fl_ctx, abort_signal))
        except Stopped:
            return make_reply(ReturnCode.TASK_ABORTED)
        except Exception as error:
            message = user_message(error) or traceback.format_exc()
            self.log_error(fl_ctx, message, fire_event=False)  # an event may be passed on to the server
            if self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
                write_whole(self._folder / ERROR, f"{message}\n")
            return FLModelUtils.to_shareable(FLModel(metrics={}, meta={FAILED: root_cause(error).partition(":")[0]}))

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """End the bundle's run with NVFlare's."""
        if event_type == EventType.END_RUN and self._site is not None:
            self._site.close()
            self._site = None

    def _do(self, task: str, shareable: Shareable, fl_ctx: FLContext, abort: Signal) -> FLModel:
        site = self._site or self._begin(fl_ctx)
        if task == "initial":
            return FLModel(params=to_arrays(site.weights()), meta={})
        asked = FLModelUtils.from_shareable(shareable)
        weights = from_arrays(asked.params)
        if task == "train":
            done = site.train(weights, int(asked.current_round), lambda: bool(abort.triggered))
            meta: dict[str, Any] = {"cases": done.cases, "validation_cases": done.validation_cases}
            meta |= {"global_score": done.global_score, "site_score": done.site_score}
            return FLModel(params=to_arrays(done.weights), meta=meta)
        if task == "validate":
            scores = {"global_score": site.score(weights)}
            return FLModel(metrics=scores, meta=scores)
        raise ValueError(f"a site does 'initial', 'train' and 'validate'; the server asked for '{task}'.")

    def _begin(self, fl_ctx: FLContext) -> FederatedSite:
        workspace, job = fl_ctx.get_engine().get_workspace(), fl_ctx.get_job_id()
        app = Path(workspace.get_app_dir(job))
        settings = json.loads((Path(workspace.get_app_config_dir(job)) / SITE_SETTINGS).read_text(encoding="utf-8"))
        self._folder = Path(settings["folder"] or Path(workspace.get_run_dir(job)) / _FOLDER)
        (self._folder / ERROR).unlink(missing_ok=True)
        self._site = FederatedSite(
            app / settings["bundle"],
            self._folder,
            settings["rounds"],
            settings["local_epochs"],
            [app / file for file in settings["config_files"]],
            settings["overrides"],
        )
        return self._site
