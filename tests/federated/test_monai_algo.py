"""MONAI's client of federations runs every bundle as it is on disk."""

from copy import deepcopy

import pytest
import torch
from ignite.engine import Events
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, WeightType
from monai.fl.utils.exchange_object import ExchangeObject

from ..bundles.running import BUNDLES, Bundle, differing, weights
from .sites import NAMES, site

pytestmark = pytest.mark.filterwarnings("ignore")

ROUNDS = 2
LENGTHS = {"epochs": ROUNDS}
HLFD_LENGTHS = {**LENGTHS, "lr_scheduler#T_max": ROUNDS}  # MonaiAlgo puts the epochs of a round in its place


class Client:
    """A site that MonaiAlgo runs, and what was seen of it."""

    def __init__(self, name, common, folder):
        self.name, self.folder = name, folder
        self.common = {
            **common,
            **(HLFD_LENGTHS if "hlfd" in name else LENGTHS),
            "ckpt_dir": str(folder / "models"),
            "output_dir": str(folder / "eval"),
            "run_name": "distilled",
        }
        self.algo = MonaiAlgo(
            str(BUNDLES / name),
            send_weight_diff=False,
            train_kwargs=deepcopy(self.common),
            eval_kwargs=deepcopy(self.common),
        )
        self.algo.initialize({ExtraItems.CLIENT_NAME: "site"})
        self.start = self.weights()
        self.frozen = deepcopy(self.teachers())
        self.at_start, self.sent = [], []
        self.algo.trainer.add_event_handler(Events.STARTED, lambda: self.at_start.append(self.network_state()))

    def part(self, key):
        return self.algo.train_workflow.parser.get_parsed_content(key)

    def teachers(self):
        """The weights of frozen teachers."""
        parser = self.algo.train_workflow.parser
        found = self.part("teachers") if "teachers" in parser else {"teacher": self.part("teacher")}
        return {key: t.network.state_dict() for key, t in found.items() if type(t).__name__ == "FrozenTeacher"}

    def network_state(self):
        return deepcopy(self.algo.trainer.network.state_dict())

    def weights(self):
        """What is sent to the server; on a CPU MonaiAlgo gives the network's own tensors."""
        return deepcopy(self.algo.get_weights().weights)

    def round(self, given):
        """Train from weights; what was in the network before is of no account."""
        for value in self.algo.trainer.network.state_dict().values():
            value.zero_()
        self.algo.train(ExchangeObject(weights=given, weight_type=WeightType.WEIGHTS))
        self.sent.append(self.weights())
        return deepcopy(self.sent[-1])


@pytest.fixture(scope="module", params=NAMES)
def client(request, tmp_path_factory):
    """Two rounds of a federation of one site, whose average is what it sends."""
    folder = tmp_path_factory.mktemp(request.param)
    made = Client(request.param, site(request.param, folder), folder / "algo")
    given = made.start
    for _ in range(ROUNDS):
        given = made.round(given)
    return made


def test_a_round_starts_from_the_weights_given(client):
    assert [differing(*pair) for pair in zip(client.at_start, [client.start, *client.sent])] == [[]] * ROUNDS


def test_local_training_changes_them(client):
    for before, after in zip([client.start, *client.sent], client.sent):
        names = {key.split("/")[1] for key in differing(before, after)}
        assert {name for name, _ in client.algo.trainer.network.named_parameters()} & names


def test_the_student_alone_is_sent(client):
    assert client.sent[-1].keys() == client.part("network_def").state_dict().keys()
    kept = client.part("distiller").state_dict()
    assert bool(kept) == (not client.name.startswith(("hdkd", "kdas"))), sorted(kept)
    assert differing(client.teachers(), client.frozen) == []


def test_two_rounds_of_one_site_are_two_epochs_of_a_training(client):
    """Bit by bit: student, optimiser, schedule, adapters, banks and mean teacher are those of a run in one go."""
    alone = client.folder.parent / "alone"
    places = {"ckpt_dir": str(alone / "models"), "output_dir": str(alone / "eval")}
    Bundle(client.name).run("train.json", **{**client.common, **places})
    whole, rounds = (weights(folder / "models" / "distilled_resume.pt") for folder in (alone, client.folder))
    assert whole["trainer"]["epoch"] == ROUNDS
    assert differing(rounds["objects"], whole["objects"]) == []
    assert differing(client.sent[-1], whole["objects"]["network"]["state"]) == []


def test_differences_of_weights_add_up(client):
    client.algo.send_weight_diff = True
    try:
        sent = client.algo.get_weights()
    finally:
        client.algo.send_weight_diff = False
    assert sent.weight_type == WeightType.WEIGHT_DIFF
    assert sent.weights.keys() == client.sent[-1].keys()
    for name, change in sent.weights.items():
        torch.testing.assert_close(client.sent[-2][name] + change, client.sent[-1][name])


def test_evaluation_scores_the_weights_given_as_the_bundle_scores_them(client):
    scores = client.algo.evaluate(ExchangeObject(weights=client.sent[0])).metrics
    assert differing(client.network_state(), client.sent[-1]) == []  # the student in training stays
    torch.save(client.sent[0], client.folder / "models" / "model.pt")
    flow = Bundle(client.name).run("train.json", "evaluate.json", **client.common)
    expected = flow.parser.get_parsed_content("validate#evaluator").state.metrics
    assert expected.keys() == scores.keys()
    assert [key for key in scores if repr(scores[key]) != repr(expected[key])] == []


def test_it_ends(client):
    client.algo.finalize()
