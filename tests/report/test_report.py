"""Cost, stored evaluations, the comparison table and the pictures."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import monai_kd.report
from monai_kd.networks import PolypPVT
from monai_kd.report import (
    Cost,
    Evaluation,
    comparison_table,
    gap_closed,
    load_evaluations,
    network_cost,
    save_evaluation,
    save_overlays,
)
from monai_kd.report.__main__ import main
from monai_kd.report.cost import costs_side_by_side, load_costs, peak_memory, save_costs
from monai_kd.report.table import NO_INTERVAL


def evaluation(name, dice):
    return Evaluation(name, {"meanDice": dice}, 4, Cost(10, 0.5, 2.0), (1, 3, 32, 32))


@pytest.mark.parametrize("dims", [2, 3])
def test_cost_of_a_convolution_is_its_formula(dims):
    layer = [nn.Conv2d, nn.Conv3d][dims - 2](2, 5, 3, bias=False)
    cost = network_cost(layer, (1, 2, *[10] * dims), repeats=1)
    assert cost.parameters == 2 * 5 * 3**dims
    assert cost.gmac == pytest.approx(8**dims * 2 * 5 * 3**dims / 1e9)
    assert cost.milliseconds > 0


def test_cost_counts_attention():
    """The student's 1.90 GMAC at 352 pixels include its attention, which torch's counter misses in fused form."""
    assert network_cost(PolypPVT("b0"), (1, 3, 352, 352), repeats=1).gmac == pytest.approx(1.90, abs=0.01)


def test_cost_leaves_the_network_alone():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout()).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    network_cost(network, (2, 1, 8, 8), repeats=1)
    assert network.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_cost_of_an_ensemble_is_the_sum():
    networks = [nn.Conv2d(1, width, 3) for width in (2, 4, 8)]
    one_by_one = [network_cost(network, (1, 1, 8, 8), repeats=1) for network in networks]
    together = network_cost(networks, (1, 1, 8, 8), repeats=1)
    assert together.parameters == sum(cost.parameters for cost in one_by_one)
    assert together.gmac == pytest.approx(sum(cost.gmac for cost in one_by_one))
    assert together.milliseconds > 0


def test_costs_side_by_side_are_those_of_each_alone():
    networks = {"wide": nn.Conv2d(1, 64, 5), "narrow": nn.Conv2d(1, 2, 1), "both": [nn.Conv2d(1, 2, 1)] * 2}
    found = costs_side_by_side(networks, (1, 1, 64, 64), rounds=5)
    for name, network in networks.items():
        alone = network_cost(network, (1, 1, 64, 64), repeats=1)
        assert (found[name].parameters, found[name].gmac) == (alone.parameters, alone.gmac)
        assert 0 < found[name].low <= found[name].milliseconds <= found[name].high
        assert found[name].peak_bytes == peak_memory(network, (1, 1, 64, 64))
    assert found["wide"].milliseconds > found["narrow"].milliseconds
    assert list(found) == ["wide", "narrow", "both"]


def test_costs_side_by_side_take_turns():
    order = []

    class Network(nn.Conv2d):
        def forward(self, images):
            order.append(self.out_channels)
            return super().forward(images)

    networks = {str(width): Network(1, width, 1) for width in (1, 2, 3)}
    costs_side_by_side(networks, {"1": (1, 1, 4, 4), "2": (1, 1, 5, 5), "3": (1, 1, 6, 6)}, rounds=4)
    rounds = [order[start : start + 3] for start in range(len(order) - 18, len(order), 3)]
    assert rounds == [[1, 2, 3], [2, 3, 1], [3, 1, 2]] * 2
    with pytest.raises(ValueError, match="networks and one round"):
        costs_side_by_side({}, (1, 1, 4, 4))


def test_peak_memory_is_weights_input_and_what_lives_at_once():
    size = 4 * 1 * 8 * 32 * 32
    chain = nn.Sequential(*[nn.ReLU() for _ in range(5)])
    # The input is kept by the caller; of the outputs two live at once, however long the chain is.
    assert peak_memory(chain, (1, 8, 32, 32)) == size + 2 * size
    norm = nn.BatchNorm2d(8)
    held = sum(t.numel() * t.element_size() for t in [*norm.parameters(), *norm.buffers()])
    assert size * 2 + held <= peak_memory(norm, (1, 8, 32, 32)) <= size * 2 + held + 4096

    class Keeps(nn.Module):
        def forward(self, images):
            return torch.stack([images.relu() for _ in range(5)]).sum()

    assert peak_memory(Keeps(), (1, 8, 32, 32)) >= size * 11
    assert peak_memory([chain, Keeps()], (1, 8, 32, 32)) == peak_memory(Keeps(), (1, 8, 32, 32))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_peak_memory_on_a_device_leaves_out_what_was_there():
    kept = torch.zeros(1 << 24, device="cuda")
    chain = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False, device="cuda"), nn.ReLU(), nn.ReLU())
    size = 4 * 8 * 256 * 256
    assert 3 * size <= peak_memory(chain, (1, 8, 256, 256)) <= 4 * size + (1 << 24)
    del kept


def test_costs_come_back_as_they_were_stored(tmp_path):
    assert load_costs(tmp_path) is None
    costs = costs_side_by_side({"a": nn.Conv2d(1, 1, 1)}, (1, 1, 4, 4), rounds=1)
    save_costs(tmp_path, costs, "cpu", rounds=1)
    found, how = load_costs(tmp_path)
    assert found == costs
    assert how.startswith("cpu, ")
    assert how.endswith("median of 1 passes in turns")


@pytest.mark.parametrize(
    ("scores", "share"), [((0.7, 0.76, 0.8), 0.6), ((0.7, 0.7, 0.8), 0.0), ((0.7, 0.65, 0.8), -0.5)]
)
def test_gap_closed(scores, share):
    assert gap_closed(*scores) == pytest.approx(share)


@pytest.mark.parametrize("teacher", [0.7, 0.6])
def test_without_a_gap_there_is_no_share(teacher):
    assert gap_closed(0.7, 0.75, teacher) is None


def test_table_has_the_teacher_first_and_the_share_of_the_gap():
    rows = comparison_table(
        {name: evaluation(name, d) for name, d in (("distilled", 0.75), ("baseline", 0.7), ("teacher", 0.8))},
        "meanDice",
    ).splitlines()
    *rows, empty, below = rows
    assert (empty, below) == ("", NO_INTERVAL)
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["teacher", "baseline", "distilled"]
    assert [row.split("|")[-2].strip() for row in rows[2:]] == ["-", "-", "50 %"]
    assert len({len(row) for row in rows}) == 1


@pytest.mark.parametrize(
    ("teacher", "told"), [(0.705, "gap < 0.01"), (0.70, "no gap"), (0.65, "no gap"), (0.72, "250 %")]
)
def test_table_gives_no_share_of_next_to_nothing(teacher, told):
    found = {name: evaluation(name, d) for name, d in (("distilled", 0.75), ("baseline", 0.7), ("teacher", teacher))}
    rows = comparison_table(found, "meanDice").splitlines()
    assert rows[4].split("|")[-2].strip() == told
    assert (rows[-1] == NO_INTERVAL) == ("%" in told)


def test_table_names_a_missing_score():
    with pytest.raises(KeyError, match=r"has no score \['Dice'\]"):
        comparison_table({"teacher": evaluation("teacher", 0.5)}, "Dice")


def test_evaluations_come_back_as_they_were_stored(tmp_path):
    path = save_evaluation(
        tmp_path / "new", "teacher", {"dice": torch.tensor(0.5), "x": [1]}, 3, nn.Conv2d(1, 1, 1), (1, 1, 4, 4)
    )
    (found,) = load_evaluations(tmp_path).values()
    assert (found.name, found.scores, found.cases, found.input_shape) == ("teacher", {"dice": 0.5}, 3, (1, 1, 4, 4))
    assert found.cost.parameters == 2
    assert [p.name for p in path.parent.iterdir()] == ["teacher.evaluation.json"]
    with pytest.raises(FileNotFoundError, match=r"evaluate\.json"):
        load_evaluations(tmp_path / "elsewhere")


@pytest.mark.parametrize(("metrics", "said"), [({}, "no numbers"), ({"dice": float("nan")}, "not finite")])
def test_an_evaluation_without_numbers_is_refused(tmp_path, metrics, said):
    with pytest.raises(ValueError, match=said):
        save_evaluation(tmp_path, "teacher", metrics, 0, nn.Conv2d(1, 1, 1), (1, 1, 4, 4))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def pictures(tmp_path):
    for folder in ("frames", "truth", "masks"):
        (tmp_path / folder).mkdir()
    mask = np.zeros((40, 50), np.uint8)
    mask[10:20, 12:30] = 255
    for name in ("a", "b"):
        Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(tmp_path / "frames" / f"{name}.jpg")
        Image.fromarray(mask).save(tmp_path / "truth" / f"{name}.png")
        Image.fromarray(np.roll(mask, 6, axis=1)).save(tmp_path / "masks" / f"{name}.png")
    return tmp_path


def test_overlays_draw_truth_and_prediction(pictures):
    frames = sorted((pictures / "frames").iterdir())
    labels = sorted((pictures / "truth").iterdir())
    drawn = save_overlays(frames, {"student": pictures / "masks"}, pictures / "out" / "o.png", labels)
    colours = np.asarray(Image.open(drawn).convert("RGB")).reshape(-1, 3).astype(int)
    for colour in ((0x37, 0xE3, 0x6B), (0xFF, 0xD2, 0x3F)):
        assert (np.abs(colours - colour).sum(axis=1) < 30).sum() > 50


def test_overlays_refuse_a_missing_or_a_misfitting_mask(pictures):
    frames = sorted((pictures / "frames").iterdir())
    Image.new("L", (7, 7)).save(pictures / "masks" / "b.png")
    with pytest.raises(ValueError, match="own size"):
        save_overlays(frames, {"student": pictures / "masks"}, pictures / "o.png")
    (pictures / "masks" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match="no mask named 'b'"):
        save_overlays(frames, {"student": pictures / "masks"}, pictures / "o.png")
    assert not (pictures / "o.png").exists()


def test_the_command_writes_table_and_pictures(pictures, capsys):
    network = nn.Conv2d(1, 1, 1)
    for name, dice in (("teacher", 0.8), ("baseline", 0.6), ("distilled", 0.7)):
        save_evaluation(pictures, name, {"meanDice": dice}, 2, network, (1, 1, 8, 8))
    words = [str(pictures), "--frames", str(pictures / "frames"), "--labels", str(pictures / "truth")]
    assert main([*words, "--masks", f"student={pictures / 'masks'}", "--note", "A note."]) == 0
    shown = capsys.readouterr().out
    assert "50 %" in shown
    assert (pictures / "report.md").read_text(encoding="utf-8") in shown
    assert (pictures / "report.md").read_text(encoding="utf-8").endswith("A note.\n")
    assert (pictures / "overlays.png").exists()


def test_the_command_ends_with_one_line_when_nothing_is_there(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: no *.evaluation.json")


def test_stored_evaluations_are_plain_json(tmp_path):
    path = save_evaluation(tmp_path, "teacher", {"dice": 0.5}, 3, nn.Conv2d(1, 1, 1), (1, 1, 4, 4))
    assert json.loads(path.read_text(encoding="utf-8"))["scores"] == {"dice": 0.5}


def test_the_command_names_what_is_missing_for_pictures(pictures, capsys):
    save_evaluation(pictures, "teacher", {"meanDice": 0.8}, 2, nn.Conv2d(1, 1, 1), (1, 1, 8, 8))
    assert main([str(pictures), "--frames", str(pictures / "nowhere")]) == 1
    (pictures / "truth" / "b.png").unlink()
    words = [str(pictures), "--frames", str(pictures / "frames")]
    assert main([*words, "--labels", str(pictures / "truth"), "--masks", f"s={pictures / 'masks'}"]) == 1
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")] == [
        f"error: no folder '{pictures / 'nowhere'}'; give the folder that holds the images.",
        f"error: no mask named 'b' in '{pictures / 'truth'}'; masks are found by their frame's name.",
    ]
    with pytest.raises(SystemExit):
        main([*words, "--masks", "foo"])
    assert "expected TITLE=FOLDER, got 'foo'" in capsys.readouterr().err


def test_storing_an_evaluation_needs_nothing_of_the_page():
    code = "import sys; from monai_kd.report import save_evaluation; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    loaded = set(done.stdout.split())
    assert "monai_kd.report.evaluation" in loaded
    assert not loaded & {"monai_kd.report.page", "monai_kd.report.pictures", "matplotlib", "skimage", "sklearn"}


def test_every_public_name_of_the_report_is_there():
    for name in monai_kd.report.__all__:
        assert getattr(monai_kd.report, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'absent'"):
        _ = monai_kd.report.absent


def test_errors_are_readable_when_run_as_a_module(tmp_path):
    words = [sys.executable, "-m", "monai_kd.report", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
