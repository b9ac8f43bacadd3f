"""NVFlare's server of a federation: rounds of asking all sites and averaging what they send."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.workflows.model_controller import ModelController
from torch import Tensor

from monai_kd._files import save_whole
from monai_kd.checkpoints import read_state_dict
from monai_kd.federated.answers import Answer, read_answer
from monai_kd.federated.averaging import average_weights
from monai_kd.federated.exchange import FAILED, to_arrays
from monai_kd.federated.job import MODEL, SCORES, SERVER_SETTINGS, STATE
from monai_kd.federated.scores import write_scores

__all__ = ["StudentAveraging"]


class StudentAveraging(ModelController):
    """Federated averaging of the sites' students by ``server.json``; a job that :func:`write_job` wrote names it.

    After each round it writes ``federation.pt``, from which a server that was stopped goes on, then ``model.pt``, the
    average, and ``rounds.csv``. All sites take part in each round; one that fails, answers what cannot be used, or does
    not answer in time, ends the federation by its name, and what the rounds before have written stays.
    """

    def __init__(self) -> None:
        super().__init__(persistor_id="", ignore_result_error=False)

    def run(self) -> None:
        """All rounds."""
        config = Path(self.engine.get_workspace().get_app_config_dir(self.fl_ctx.get_job_id())) / SERVER_SETTINGS
        self._settings = json.loads(config.read_text(encoding="utf-8"))
        self._folder = Path(self._settings["folder"] or self.get_run_dir())
        state = self._begin(config.parents[1])
        rounds = self._settings["rounds"]
        while state is not None and state["done"] < rounds:
            state = self._round(state)
        if state is not None:
            self._finish(state)

    def _begin(self, app: Path) -> dict[str, Any] | None:
        """Where a server that was stopped was, or the first weights."""
        path = self._folder / STATE
        if path.is_file():
            state = torch.load(path, map_location="cpu", weights_only=True)
            self.info(f"going on behind round {state['done']}")
            return dict(state)
        if self._settings["start"] is not None:
            weights = read_state_dict(app / self._settings["start"])
        else:
            first = self._settings["sites"][:1]
            replies = self._ask("initial", {}, 0, first)
            if replies is None:
                return None
            weights = replies[first[0]].weights
        return {"done": 0, "weights": weights, "rows": []}

    def _round(self, state: dict[str, Any]) -> dict[str, Any] | None:
        number = state["done"]
        replies = self._ask("train", state["weights"], number, self._settings["sites"])
        if replies is None:
            return None
        said = {site: reply.said for site, reply in sorted(replies.items())}
        rows = self._with_global(state["rows"], number, said)
        rows += [
            {"round": number + 1, "site": site, **_counts(one), "site_score": one["site_score"], "global_score": None}
            for site, one in said.items()
        ]
        try:
            weights = average_weights(
                {site: reply.weights for site, reply in replies.items()},
                {site: one["cases"] for site, one in said.items()},
            )
        except ValueError as error:
            self._end(f"round {number + 1} has no average: {error}")
            return None
        self._save(state := {"done": number + 1, "weights": weights, "rows": rows})
        self.info(f"round {number + 1} of {self._settings['rounds']} is done")
        return state

    def _finish(self, state: dict[str, Any]) -> None:
        """Score the last average, which no round begins with."""
        number = self._settings["rounds"]
        replies = self._ask("validate", state["weights"], number, self._settings["sites"])
        if replies is not None:
            said = {site: reply.said for site, reply in sorted(replies.items())}
            self._save({**state, "rows": self._with_global(state["rows"], number, said), "finished": True})

    def _with_global(self, rows: list[Any], number: int, said: dict[str, Any]) -> list[Any]:
        """The rows with what the average of a round scored; of round 0, what the start did."""
        if number == 0:
            return [
                {"round": 0, "site": site, **_counts(one), "site_score": None, "global_score": one["global_score"]}
                for site, one in said.items()
            ]
        return [
            {**row, "global_score": said[row["site"]]["global_score"]} if row["round"] == number else row
            for row in rows
        ]

    def _ask(self, task: str, weights: dict[str, Tensor], number: int, sites: list[str]) -> dict[str, Answer] | None:
        """The sites' answers by name; ``None`` when the federation has ended by the name of one without."""
        data = FLModel(params=to_arrays(weights), current_round=number, total_rounds=self._settings["rounds"])
        answers = self.send_model_and_wait(task, data, sites, timeout=self._settings["longest_round"])
        replies = {answer.meta["client_name"]: answer for answer in answers}
        found, problems = {}, []
        for site in sites:
            if site not in replies:
                problems.append(f"site '{site}' did not answer")
            elif FAILED in (said := replies[site].meta):
                problems.append(f"site '{site}' failed ({said[FAILED]}); its own log says why")
            else:
                try:
                    found[site] = read_answer(task, replies[site].params, said)
                except (TypeError, ValueError) as error:
                    problems.append(f"site '{site}' sent what cannot be used: {str(error).rstrip('.')}")
        if problems:
            self._end(f"{'; '.join(problems)}; in {'validation' if task == 'validate' else f'round {number + 1}'}.")
            return None
        return found

    def _end(self, message: str) -> None:
        self.error(message)
        self.panic(message)

    def _save(self, state: dict[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        save_whole(self._folder / STATE, partial(torch.save, state))
        save_whole(self._folder / MODEL, partial(torch.save, state["weights"]))
        write_scores(self._folder / SCORES, state["rows"])


def _counts(said: dict[str, Any]) -> dict[str, int]:
    return {name: said[name] for name in ("cases", "validation_cases")}
