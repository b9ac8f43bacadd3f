"""A training case becomes unreadable while a bundle trains: the run stops and says so, or goes on, exactly."""

from pathlib import Path

import pytest
import torch
from ignite.engine import Events

from monai_kd.errors import user_message

from .first_steps import prepared
from .running import Bundle, differing, results, table
from .test_crckd_skin_lesion_classification import settings as crckd_settings
from .test_crckd_skin_lesion_classification import write_lesions

pytestmark = pytest.mark.filterwarnings("ignore")

CRCKD, KDAS, KIDNEY = "crckd_skin_lesion_classification", "kdas_polyp_segmentation", "hlfd_kidney_tumor_segmentation"
NOT_KEPT = {CRCKD: {"cache_rate": 0.0}, KDAS: {"cache_rate": 0.0}, KIDNEY: {"cache_dir": "$None"}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """``made(name)``: a bundle's settings, with data and teachers of random weights."""
    known = {}

    def make(name):
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            if name == CRCKD:
                counts = {"akiec": 6, "bcc": 6, "bkl": 6, "df": 6, "mel": 6, "nv": 8, "vasc": 6}
                common = crckd_settings(write_lesions(folder / "data", counts), folder)
            else:
                common = prepared(name, folder / "data", folder)
                common["teacher_checkpoint"] = str(folder / "models" / "teacher.pt")
            known[name] = {**common, **NOT_KEPT[name], "epoch_length": 6, "log_interval": 1000}
        return known[name]

    return make


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """PyTorch waits that long, in seconds, for each process that loads when a run ends in the middle of an epoch."""
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)


@pytest.fixture
def begun(made):
    """``begun(name, folder, **more)``: workflow, trainer and the first training case of a run that is initialised."""

    def begin(name, folder, **more):
        places = {"ckpt_dir": str(folder / "models"), "output_dir": str(folder / "eval"), "epochs": 3}
        flow = Bundle(name).workflow("train.json", **{**made(name), **places, **more})
        flow.initialize()
        trainer = flow.parser.get_parsed_content("train#trainer")
        return flow, trainer, flow.parser.get_parsed_content("train#dataset").data[0]

    return begin


@pytest.fixture
def lost():
    """``lost(case)`` empties a case's image until the end of the test, or until it is called without.

    The file stays, for lists of data are made of the files that are there.
    """
    kept = {}

    def lose(case=None):
        if case is not None:
            kept[case["image"]] = Path(case["image"]).read_bytes()
            Path(case["image"]).write_bytes(b"")
        while case is None and kept:
            path, content = kept.popitem()
            Path(path).write_bytes(content)

    yield lose
    lose()


def run(begun, lost, name, folder, stop=False, **more):
    """Without the first case from the second epoch on; stopped within the third."""
    flow, trainer, case = begun(name, folder, **more)
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=1), lambda: lost(case))

    def interrupt():
        raise KeyboardInterrupt

    if stop:
        trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), interrupt)
        with pytest.raises(KeyboardInterrupt):
            flow.run()
    else:
        flow.run()
    flow.finalize()
    return case


@pytest.mark.parametrize(("name", "workers"), [(CRCKD, 0), (KDAS, 2), (KIDNEY, 0)])
def test_a_run_without_a_case_goes_on_exactly(begun, lost, tmp_path, name, workers):
    more = {"on_unreadable": "skip", "num_workers": workers}
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    case = run(begun, lost, name, whole, **more)
    (row,) = table(whole / "eval" / "distilled.skipped.csv")
    assert (row["epoch"], row["path"]) == ("2", case["image"])
    assert row["problem"].startswith("image: cannot be read: ")

    lost()
    run(begun, lost, name, halves, stop=True, **more)
    flow, _, _ = begun(name, halves, **more, resume=True)
    flow.run()
    assert differing(results(halves), results(whole)) == []
    assert table(halves / "eval" / "distilled.skipped.csv") == [row]

    other = tmp_path / "other"
    lost()
    flow, _, _ = begun(name, other, **more)
    flow.run()
    assert differing(results(other), results(whole)) != []  # the case counts


@pytest.mark.parametrize(("name", "workers"), [(CRCKD, 0), (KDAS, 2), (KIDNEY, 0)])
def test_a_run_stops_and_names_the_case(begun, lost, tmp_path, name, workers):
    flow, _, case = begun(name, tmp_path, num_workers=workers)
    lost(case)
    with pytest.raises(Exception, match="run") as caught:
        flow.run()
    message = user_message(caught.value)
    assert message.startswith(f"item 0: {case['image']}: image: cannot be read: ")
    assert "on_unreadable 'skip'" in message
    assert not (tmp_path / "eval" / "distilled.skipped.csv").exists()


def test_bad_cases_at_the_start_stop_or_are_left_out_but_not_of_the_validation(begun, lost, tmp_path, caplog):
    flow, _, case = begun(KDAS, tmp_path)
    held_out = flow.parser.get_parsed_content("validate#dataset").data[0]
    lost(case)
    with pytest.raises(Exception, match="check_datalist") as caught:
        begun(KDAS, tmp_path)
    assert f"{case['image']}: cannot be read" in user_message(caught.value)

    flow, _, _ = begun(KDAS, tmp_path, on_unreadable="skip", epochs=1)
    assert "The items with an error are left out of the training." in caplog.text
    flow.run()
    (row,) = table(tmp_path / "eval" / "distilled.skipped.csv")
    assert (row["epoch"], row["path"]) == ("0", case["image"])

    lost(held_out)
    with pytest.raises(Exception, match="check_datalist") as caught:
        begun(KDAS, tmp_path, on_unreadable="skip")
    assert f"{held_out['image']}: cannot be read" in user_message(caught.value)
