"""Two sites in NVFlare's simulator, by the command of docs/federated.md; needs ``make test-federated``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from monai_kd.federated import average_weights
from monai_kd.federated.job import CONTROLLER, EXECUTOR
from monai_kd.federated.scores import read_scores

from ..bundles.running import BUNDLES, PYTHON, Bundle, differing, files, weights
from .sites import site

KIDNEY, SKIN = "hlfd_kidney_tumor_segmentation", "hdkd_skin_lesion_classification"
ROUNDS = 2

pytestmark = [
    pytest.mark.federated,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(find_spec("nvflare") is None, reason="NVFlare is not installed; run `make test-federated`"),
]


class Federation:
    """A bundle with two sites, of which the second has fewer cases and a teacher of its own."""

    def __init__(self, name, folder):
        self.name, self.folder = name, folder
        (folder / "a").mkdir()
        self.common = {key: value for key, value in site(name, folder / "a").items() if key != "bundle_root"}
        shutil.copytree(folder / "a", folder / "b")
        self.data = {one: str(self.common["dataset_dir"]).replace("/a/", f"/{one}/") for one in "ab"}
        self.teachers = {one: folder / one / "models" / "teacher.pt" for one in "ab"}
        torch.save(
            {
                key: 1.01 * value if value.is_floating_point() else value
                for key, value in weights(self.teachers["a"]).items()
            },
            self.teachers["b"],
        )
        self._take_a_case_away()

    def _take_a_case_away(self):
        data = Path(self.data["b"])
        lists = Bundle(self.name).unstarted(
            "train.json", **{**self.common, "dataset_dir": str(data), "bundle_root": str(BUNDLES / self.name)}
        )
        image = Path(lists.get_parsed_content("datalist")["training"][0]["image"])
        if self.name == KIDNEY:
            shutil.rmtree(image.parent)
        else:
            table = data / "HAM10000_metadata.csv"
            lines = [line for line in table.read_text(encoding="utf-8").splitlines() if f",{image.stem}," not in line]
            table.write_text("\n".join(lines) + "\n", encoding="utf-8")
            image.unlink()

    def words(self, *more, **overrides):
        words = [*PYTHON, "-m", "monai_kd", "federate", str(BUNDLES / self.name), "--rounds", str(ROUNDS)]
        words += ["--sites", ",".join(f"{one}={data}" for one, data in self.data.items())]
        own = {f"{one}:teacher_checkpoint": str(path) for one, path in self.teachers.items()}
        for key, value in {**self.common, **own, **overrides}.items():
            if key not in ("dataset_dir", "teacher_checkpoint"):
                words += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
        return [*words, *map(str, more)]

    def run(self, output, *more, **overrides):
        return subprocess.run(
            self.words("-o", output, *more, **overrides),
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=800,
        )


@pytest.fixture(scope="module", params=[KIDNEY, SKIN])
def federation(request, tmp_path_factory):
    return Federation(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def done(federation):
    before = {one: weights(path) for one, path in federation.teachers.items()}
    output = federation.folder / "output"
    ran = federation.run(output)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return output, ran, before


def students(output):
    """Those of the sites after the last round, as they keep them."""
    kept = {one: weights(output / "sites" / one / "rounds" / f"{ROUNDS}.pt") for one in "ab"}
    return {one: state["objects"]["network"]["state"] for one, state in kept.items()}


def test_the_global_student_is_the_average_of_the_sites_by_their_cases(done):
    output, _, _ = done
    rows = {row["site"]: row for row in read_scores(output / "rounds.csv") if row["round"] == ROUNDS}
    cases = {one: rows[one]["cases"] for one in "ab"}
    assert cases["a"] == cases["b"] + 1
    sites, found = students(output), weights(output / "model.pt")
    assert differing(sites["a"], sites["b"])
    assert differing(found, average_weights(sites, cases)) == []
    for name, value in found.items():
        exact = sum(cases[one] * sites[one][name].double() for one in "ab") / sum(cases.values())
        if value.is_floating_point():
            torch.testing.assert_close(value, exact.to(value.dtype))


def test_teachers_stay_as_they_are_and_where_they_are(federation, done):
    output, _, before = done
    assert {one: differing(weights(path), before[one]) for one, path in federation.teachers.items()} == {
        "a": [],
        "b": [],
    }
    sizes = {path.stat().st_size for path in federation.teachers.values()}
    assert [name for name in files(output) if (output / name).stat().st_size in sizes] == []


def test_the_bundle_runs_the_global_student(federation, done, tmp_path):
    output, _, _ = done
    keys = Bundle(federation.name).own_keys("inference.json")
    common = {key: value for key, value in federation.common.items() if key.partition("#")[0] in keys}
    data = Path(federation.data["a"])
    if federation.name == KIDNEY:
        common["dataset_dir"] = str(next(data.rglob("imaging.nii.gz")))
    else:
        common["dataset_dir"] = str(data / "images")
    places = {
        "bundle_root": str(BUNDLES / federation.name),
        "ckpt_dir": str(output),
        "output_dir": str(tmp_path / "out"),
    }
    status, shown, _ = Bundle(federation.name).command(PYTHON, "inference.json", **{**common, **places})
    assert status == 0, shown[-3000:]
    assert files(tmp_path / "out")


def test_each_round_has_the_scores_of_sites_and_average(done):
    output, ran, _ = done
    rows = read_scores(output / "rounds.csv")
    assert [(row["round"], row["site"]) for row in rows] == [
        (k, s) for k in range(ROUNDS + 1) for s in ("a", "b", "all")
    ]
    assert all(0 <= row["global_score"] <= 1 for row in rows)
    assert all(0 <= row["site_score"] <= 1 for row in rows[3:])
    assert [line.split()[1] for line in ran.stdout.splitlines()[1:-1]] == ["a", "b", "all"] * (ROUNDS + 1)
    assert ran.stdout.splitlines()[-1] == f"student: {output / 'model.pt'}"


def test_the_last_global_score_is_that_of_the_global_student(federation, done, tmp_path):
    output, _, _ = done
    from monai_kd.federated import FederatedSite

    common = {
        **federation.common,
        "dataset_dir": federation.data["b"],
        "teacher_checkpoint": str(federation.teachers["b"]),
    }
    one = FederatedSite(BUNDLES / federation.name, tmp_path, ROUNDS, overrides=common)
    (row,) = [r for r in read_scores(output / "rounds.csv") if (r["round"], r["site"]) == (ROUNDS, "b")]
    assert one.score(weights(output / "model.pt")) == pytest.approx(row["global_score"], rel=1e-5)


def test_a_finished_federation_has_nothing_left_to_do(federation, done):
    output, ran, _ = done
    before = (output / "log.txt").stat().st_mtime_ns
    again = federation.run(output)
    assert (again.returncode, again.stdout) == (0, ran.stdout)
    assert (output / "log.txt").stat().st_mtime_ns == before


def test_sites_that_begin_anew_for_each_task_change_no_bit(federation, done, tmp_path):
    """At once trains one site: each task is a process that reads what the site has kept."""
    if federation.name != KIDNEY:
        pytest.skip("one bundle is enough: the sites themselves are tested with more")
    output, _, _ = done
    ran = federation.run(tmp_path / "out", "--at-once", 1)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert differing(weights(tmp_path / "out" / "federation.pt"), weights(output / "federation.pt")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda value: value.name)
def test_a_federation_that_was_stopped_goes_on_exactly(federation, done, tmp_path, number):
    if federation.name != KIDNEY:
        pytest.skip("one bundle is enough: the sites themselves are tested with more")
    whole, _, _ = done
    output = tmp_path / "out"
    process = subprocess.Popen(
        federation.words("-o", output), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        while not (output / "federation.pt").exists():
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.01)
        (os.killpg if number == signal.SIGKILL else os.kill)(process.pid, number)
        process.wait(120)
    finally:
        end(process)
    wait_until_nothing_works_in(output)
    assert weights(output / "federation.pt")["done"] < ROUNDS
    ran = federation.run(output)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert differing(weights(output / "federation.pt"), weights(whole / "federation.pt")) == []


def end(process):
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_nothing_works_in(output):
    """Processes of sites see within seconds that the one that started them is gone."""
    until = time.monotonic() + 60
    while at_work(output):
        assert time.monotonic() < until, at_work(output)
        time.sleep(0.2)


def at_work(output):
    """Numbers and words of NVFlare's processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode("utf-8", "replace")
        except OSError:
            continue
        if str(output) in line and "nvflare" in line:
            found.append((int(path.parent.name), line))
    return found


def test_a_site_that_fails_ends_it_by_its_name(federation, tmp_path):
    if federation.name != KIDNEY:
        pytest.skip("one bundle is enough")
    nowhere = tmp_path / "nowhere.pt"
    words = federation.words("-o", tmp_path / "out", "--set", f"b:teacher_checkpoint={nowhere}")
    ran = subprocess.run(words, capture_output=True, encoding="utf-8", check=False, timeout=800)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[0].startswith(f"error: site 'b' failed: no checkpoint at '{nowhere}'.")
    assert "site 'a' failed" not in ran.stderr
    sent = [
        line
        for line in (tmp_path / "out" / "log.txt").read_text(encoding="utf-8").splitlines()
        if "in round 1." in line
    ]
    assert "site 'b' failed (FileNotFoundError); its own log says why; in round 1." in sent[0]
    assert not (tmp_path / "out" / "model.pt").exists()
    assert at_work(tmp_path / "out") == []


def test_a_site_that_is_killed_ends_it_by_its_name_and_goes_on_exactly(federation, done, tmp_path):
    if federation.name != KIDNEY:
        pytest.skip("one bundle is enough")
    output = tmp_path / "out"
    process = subprocess.Popen(
        federation.words("-o", output), stderr=subprocess.PIPE, encoding="utf-8", start_new_session=True
    )
    try:
        while not (output / "sites" / "b" / "rounds" / "1.pt").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        (worker,) = [
            number for number, line in at_work(output) if "simulator_worker" in line and "--client\0b\0" in line
        ]
        os.kill(worker, signal.SIGKILL)
        _, errors = process.communicate(timeout=120)
    finally:
        end(process)
    assert process.returncode == 1
    assert "error: site 'b' ended without an answer" in errors
    assert at_work(output) == []
    ran = federation.run(output)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert differing(weights(output / "federation.pt"), weights(done[0] / "federation.pt")) == []


def test_another_federation_is_not_gone_on_with(federation, done):
    output, _, _ = done
    ran = federation.run(output, learning_rate=0.5)
    assert ran.returncode == 1
    assert f"'{output}' holds another federation: sites differ." in ran.stderr


def test_an_exported_job_is_what_was_simulated(federation, done, tmp_path):
    """NVFlare alone runs it, in its own workspace, once the site has allowed the two classes."""
    if federation.name != KIDNEY:
        pytest.skip("one bundle is enough")
    output, _, _ = done
    job, workspace = tmp_path / "job", tmp_path / "workspace"
    made = subprocess.run(federation.words("--export", job), capture_output=True, encoding="utf-8", check=False)
    assert made.returncode == 0, made.stderr
    (workspace / "local").mkdir(parents=True)
    allowed = {"format_version": 2, "class_allow_list": [CONTROLLER, EXECUTOR]}
    (workspace / "local" / "resources.json").write_text(json.dumps(allowed), encoding="utf-8")
    simulator = "nvflare.private.fed.app.simulator.simulator"
    words = [sys.executable, "-m", simulator, str(job), "-w", str(workspace), "-c", "a,b", "-t", "2"]
    ran = subprocess.run(words, capture_output=True, encoding="utf-8", check=False, timeout=800)
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-5000:]
    (model,) = (workspace / "server").rglob("model.pt")
    assert differing(weights(model), weights(output / "model.pt")) == []
    assert (model.with_name("rounds.csv")).read_bytes() == (output / "rounds.csv").read_bytes()
    assert [path for path in workspace.rglob("*.pt") if "teacher" in path.name] == []
