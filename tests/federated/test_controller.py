"""The server by itself: what sites may answer, without NVFlare's carrier."""

import re
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from ..bundles.running import files

pytestmark = [
    pytest.mark.federated,
    pytest.mark.skipif(find_spec("nvflare") is None, reason="NVFlare is not installed; run `make test-federated`"),
]

SAID = {"cases": 3, "validation_cases": 1, "global_score": 0.5, "site_score": 0.25}
FIRST = {"done": 0, "weights": {"w": torch.zeros(2)}, "rows": []}


def array(*values, kind=np.float32):
    return {"w": np.array(values, dtype=kind)}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of sites a and b, what b answers, and what was said in the end."""
    from nvflare.app_common.abstract.fl_model import FLModel

    from monai_kd.federated.controller import StudentAveraging

    made, ended = StudentAveraging(), []
    made._settings = {"sites": ["a", "b"], "rounds": 2, "longest_round": 0}
    made._folder = tmp_path / "out"
    for name in ("info", "error"):
        monkeypatch.setattr(made, name, lambda message: None)
    monkeypatch.setattr(made, "panic", ended.append)

    def answering(params, said):
        answers = [
            FLModel(params=array(0.0, 4.0), meta={**SAID, "client_name": "a"}),
            FLModel(params=params, metrics={}, meta={**said, "client_name": "b"}),
        ]
        monkeypatch.setattr(made, "send_model_and_wait", lambda *args, **kwargs: answers)
        return made

    return answering, ended


def test_a_round_is_averaged_by_the_cases(server, tmp_path):
    answering, ended = server
    state = answering(array(4.0, 0.0), {**SAID, "cases": 1})._round(FIRST)
    assert (state["done"], state["weights"]["w"].tolist(), ended) == (1, [1.0, 3.0], [])
    assert files(tmp_path / "out") == ["federation.pt", "model.pt", "rounds.csv"]


@pytest.mark.parametrize(
    ("params", "said", "message"),
    [
        (array(1.0, 1.0), {"cases": None}, "site 'b' sent what cannot be used: 'cases' is a whole number from 1"),
        (array(1.0, 1.0), {"site_score": "high"}, "site 'b' sent .*: 'site_score' is a number, got 'high'"),
        ({"w": "x"}, {}, "site 'b' sent what cannot be used: 'w' is no array of numbers"),
        (None, {}, "site 'b' sent what cannot be used: expected arrays by name, got a NoneType"),
        (array(1.0), {}, "round 1 has no average: the networks of the sites 'a' and 'b' differ"),
        (array(1.0, 1.0, kind=np.float64), {}, "round 1 has no average: the networks of the sites 'a' and 'b' differ"),
        (array(1.0, np.nan), {}, "round 1 has no average: site 'b' sent 'w' with values that are not finite"),
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_used_ends_it_by_the_name_of_the_site(server, params, said, message, tmp_path):
    answering, ended = server
    assert answering(params, {**SAID, **said})._round(FIRST) is None
    assert len(ended) == 1
    assert re.match(message, ended[0])
    assert not (tmp_path / "out").exists()
