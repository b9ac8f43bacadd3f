"""A site trains a round at a time, and loses nothing between two."""

import shutil

import pytest
import torch
from ignite.engine import Events

from monai_kd.checkpoints import CheckpointError
from monai_kd.federated import FederatedSite, average_weights
from monai_kd.federated.site import Stopped

from ..bundles.running import BUNDLES, Bundle, differing, table, weights
from .sites import CRCKD, site

pytestmark = pytest.mark.filterwarnings("ignore")

KIDNEY = "hlfd_kidney_tumor_segmentation"
HDKD = "hdkd_skin_lesion_classification"
ROUNDS = 3
one_is_enough = pytest.mark.parametrize("made", [CRCKD], indirect=True)


class Made:
    """A bundle with settings for its sites; where they write is the folder's own."""

    def __init__(self, name, folder):
        self.name, self.folder = name, folder
        self.common = {key: value for key, value in site(name, folder).items() if key != "bundle_root"}

    def site(self, folder, rounds=ROUNDS, local_epochs=1, **more):
        return FederatedSite(BUNDLES / self.name, folder, rounds, local_epochs, overrides={**self.common, **more})


@pytest.fixture(scope="module", params=[KIDNEY, CRCKD])
def made(request, tmp_path_factory):
    return Made(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def whole(made):
    """Its rounds in one go: where it wrote, what it was given and what it answered."""
    one = made.site(made.folder / "whole")
    given, answers = [one.weights()], []
    for number in range(ROUNDS):
        answers.append(one.train(given[-1], number))
        given.append(answers[-1].weights)
    one.close()
    return made.folder / "whole", given, answers


def test_rounds_of_one_site_are_one_training(made, whole):
    """Bit by bit: student, optimiser, schedule, adapters, bank and mean teacher."""
    folder, _, answers = whole
    alone = made.folder / "alone"
    places = {"bundle_root": str(BUNDLES / made.name), "ckpt_dir": str(alone / "models")}
    Bundle(made.name).run(
        "train.json",
        **{**made.common, **places, "output_dir": str(alone / "eval"), "epochs": ROUNDS, "val_interval": 1},
    )
    expected, found = weights(alone / "models" / "distilled_resume.pt"), weights(folder / "rounds" / f"{ROUNDS}.pt")
    assert differing(found["objects"], expected["objects"]) == []
    assert differing(answers[-1].weights, expected["objects"]["network"]["state"]) == []
    scores = [row[key(made)] for row in table(alone / "eval" / "distilled.history.csv")]
    assert [f"{one.site_score:.6g}" for one in answers] == scores


def key(made):
    """The name of the score in the history."""
    return "val_mean_dice" if made.name == KIDNEY else "val_score"


def test_the_weights_given_are_scored_before_they_are_trained(whole):
    _, _, answers = whole
    assert [one.global_score for one in answers[1:]] == [one.site_score for one in answers[:-1]]


def test_what_was_in_the_student_is_of_no_account(made, whole, tmp_path):
    _, given, answers = whole
    one = made.site(tmp_path)
    for value in one.trainer.network.state_dict().values():
        value.zero_()
    assert differing(one.train(given[0], 0).weights, answers[0].weights) == []


def test_a_site_that_was_stopped_between_rounds_goes_on_exactly(made, whole, tmp_path):
    folder, given, answers = whole
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "rounds" / f"{ROUNDS}.pt").unlink()  # it had answered to the round before the last
    one = made.site(tmp_path)
    found = one.train(given[-2], ROUNDS - 1)
    assert differing(found.weights, answers[-1].weights) == []
    assert differing(*(weights(path / "rounds" / f"{ROUNDS}.pt") for path in (tmp_path, folder))) == []


def at_round(made, whole, number, folder):
    """A site that comes to a round: with what it has kept, or with nothing before the first one."""
    if number > 0:
        shutil.copytree(whole[0], folder, dirs_exist_ok=True)
    return made.site(folder)


any_round = pytest.mark.parametrize("number", [0, ROUNDS - 1])


@any_round
def test_a_round_whose_answer_was_lost_is_repeated_exactly(made, whole, number, tmp_path):
    """In the process that trained it, and in another one."""
    _, given, answers = whole
    one, kept = at_round(made, whole, number, tmp_path), []
    for _ in range(2):
        assert differing(one.train(given[number], number).weights, answers[number].weights) == []
        kept.append(weights(tmp_path / "rounds" / f"{number + 1}.pt"))
    assert kept[0]["trainer"]["epoch"] == number + 1
    assert differing(*kept) == []
    if number == 0:  # it goes on as if nothing had been lost
        assert differing(one.train(given[1], 1).weights, answers[1].weights) == []


@one_is_enough
def test_what_cannot_be_gone_back_to_is_said_to_stay(made, whole, tmp_path, caplog):
    _, given, _ = whole
    one = made.site(tmp_path)
    one.train(given[0], 0)
    shutil.rmtree(tmp_path / "rounds")
    one.train(given[0], 0)
    assert "adapters, banks and optimiser stay as they are" in caplog.text


@one_is_enough
def test_a_site_whose_folder_was_lost_begins_anew_and_says_so(made, whole, tmp_path, caplog):
    _, given, answers = whole
    one = made.site(tmp_path)
    found = one.train(given[-2], ROUNDS - 1)
    assert "adapters, banks and optimiser begin anew" in caplog.text
    assert differing(found.weights, answers[-1].weights)
    assert found.global_score == answers[-2].site_score


@any_round
@one_is_enough
def test_an_abort_ends_a_round_which_can_be_repeated(made, whole, number, tmp_path):
    _, given, answers = whole
    one = at_round(made, whole, number, tmp_path)
    steps = []
    one.trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda: steps.append(1))
    with pytest.raises(Stopped):
        one.train(given[number], number, should_stop=lambda: True)
    assert len(steps) == 1
    assert differing(one.train(given[number], number).weights, answers[number].weights) == []


def test_the_last_two_rounds_are_kept(whole):
    folder, _, _ = whole
    assert sorted(path.name for path in (folder / "rounds").iterdir()) == [f"{ROUNDS - 1}.pt", f"{ROUNDS}.pt"]


def test_cases_are_those_with_and_without_labels(made, whole):
    _, _, answers = whole
    parser = Bundle(made.name).unstarted("train.json", **made.common, bundle_root=str(BUNDLES / made.name))
    lists = parser.get_parsed_content("datalist")
    assert (answers[0].cases, answers[0].validation_cases) == (len(lists["training"]), len(lists["validation"]))


@one_is_enough
def test_weights_of_another_network_are_refused(made, tmp_path):
    one = made.site(tmp_path)
    given = {name: value for name, value in one.weights().items() if not name.endswith("bias")}
    with pytest.raises(CheckpointError, match="missing in the file"):
        one.train(given, 0)


@one_is_enough
def test_a_round_has_so_many_epochs_and_ends_with_a_validation(made, tmp_path):
    one = made.site(tmp_path, rounds=2, local_epochs=2)
    first = one.train(one.weights(), 0)
    second = one.train(first.weights, 1)
    rows = table(tmp_path / "eval" / "distilled.history.csv")
    scores = [row[key(made)] for row in rows]
    assert scores == ["", f"{first.site_score:.6g}", "", f"{second.site_score:.6g}"]
    assert second.global_score == first.site_score


def test_teachers_of_sites_stay_as_they_differ(tmp_path):
    """Two sites with teachers of their own, from one start, are averaged; neither teacher is sent or changed."""
    made = Made(HDKD, tmp_path)
    teachers = {"a": made.common["teacher_checkpoint"], "b": str(tmp_path / "b.pt")}
    torch.save(
        {name: 1.01 * value if value.is_floating_point() else value for name, value in weights(teachers["a"]).items()},
        teachers["b"],
    )
    before = {name: weights(path) for name, path in teachers.items()}
    sites = {
        name: made.site(tmp_path / name, rounds=1, teacher_checkpoint=path, labelled_fraction=0.5)
        for name, path in teachers.items()
    }
    start = sites["a"].weights()
    assert differing(start, sites["b"].weights()) == []
    done = {name: one.train(start, 0) for name, one in sites.items()}
    assert differing(done["a"].weights, done["b"].weights)
    average = average_weights({n: one.weights for n, one in done.items()}, {n: one.cases for n, one in done.items()})
    assert average.keys() == start.keys()
    assert {name: differing(weights(path), before[name]) for name, path in teachers.items()} == {"a": [], "b": []}
    for name, one in sites.items():
        network = one._flow.parser.get_parsed_content("teacher").network
        assert differing(dict(network.state_dict()), before[name]) == []
        assert one.score(average) == pytest.approx(sites["a"].score(average))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"validate#evaluator": None}, "has no 'validate#evaluator' in train.json"),
        ({"validate#evaluator#network": "$deepcopy(@network)"}, "scores another network"),
    ],
)
def test_a_bundle_that_no_site_can_run_is_refused(tmp_path, more, message):
    made = Made(KIDNEY, tmp_path)
    handlers = [{"_target_": "StatsHandler"}]
    with pytest.raises(ValueError, match=message):
        made.site(tmp_path, **more, **{"train#handlers": handlers, "resume_checkpoint#evaluators": []})
