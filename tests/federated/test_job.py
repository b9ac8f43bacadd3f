"""The job's folder, without NVFlare."""

import json
import shutil

import pytest
import torch
from monai.bundle import ConfigParser

from monai_kd.federated import plan_federation, write_job

from ..bundles.running import BUNDLES, files

NAME = "hlfd_kidney_tumor_segmentation"
SITES = {"a": "/data/a", "b": "/data/b"}


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def plan(tmp_path):
    teacher, start, config = tmp_path / "given.pt", tmp_path / "first.pt", tmp_path / "ours.json"
    torch.save({"w": torch.ones(1)}, teacher)
    torch.save({"w": torch.zeros(1)}, start)
    config.write_text('{"batch_size": 1}', encoding="utf-8")
    overrides = {"learning_rate": 0.1, "b:seed": 7}
    return plan_federation(BUNDLES / NAME, SITES, 3, 2, [config], overrides, teacher, start, 60)


def test_a_job_for_other_machines_holds_all_but_data_and_weights(plan, tmp_path):
    job = write_job(plan, tmp_path / "job")
    names = files(job)
    configs = {path.name for path in (BUNDLES / NAME / "configs").glob("*.json")} | {"ours.json"}
    for site in SITES:
        assert {name for name in names if name.startswith(f"app_{site}/")} == {
            f"app_{site}/config/config_fed_client.json",
            f"app_{site}/config/site.json",
            f"app_{site}/bundle/models/teacher.pt",
            *(f"app_{site}/bundle/configs/{name}" for name in configs),
        }
    assert {name for name in names if not name.startswith(("app_a/", "app_b/"))} == {
        "meta.json",
        "app_server/config/config_fed_server.json",
        "app_server/config/server.json",
        "app_server/start.pt",
    }
    own = str(tmp_path).encode()
    assert [name for name in names if own in (job / name).read_bytes()] == []  # no path of this machine


def test_each_site_gets_its_own_settings_alone(plan, tmp_path):
    job = write_job(plan, tmp_path / "job")
    assert read(job / "meta.json")["deploy_map"] == {"app_server": ["server"], "app_a": ["a"], "app_b": ["b"]}
    a, b = (read(job / f"app_{site}" / "config" / "site.json") for site in SITES)
    assert a["overrides"]["dataset_dir"] == "/data/a"
    assert "/data/a" not in json.dumps(b)
    assert "seed" not in a["overrides"]
    assert (b["overrides"]["seed"], b["overrides"]["learning_rate"]) == (7, 0.1)
    assert (a["rounds"], a["local_epochs"], a["bundle"], a["folder"]) == (3, 2, "bundle", None)
    assert a["config_files"] == ["bundle/configs/ours.json"]


def test_the_teacher_that_all_are_given_is_found_where_the_job_lies(plan, tmp_path):
    app = write_job(plan, tmp_path / "job") / "app_a"
    parser = ConfigParser({"bundle_root": str(app / "bundle"), **read(app / "config" / "site.json")["overrides"]})
    found = parser.get_parsed_content("teacher_checkpoint")
    assert torch.load(found, weights_only=True)["w"] == 1


def test_a_simulated_job_reads_everything_where_it_is(plan, tmp_path):
    job = write_job(plan, tmp_path / "job", here=tmp_path / "out")
    assert not any(name.endswith(".pt") or "/bundle/" in name for name in files(job))
    site, server = (
        read(job / app / "config" / name) for app, name in (("app_b", "site.json"), ("app_server", "server.json"))
    )
    assert site["bundle"] == str(BUNDLES / NAME)
    assert site["folder"] == str(tmp_path / "out" / "sites" / "b")
    assert site["overrides"]["teacher_checkpoint"] == str(tmp_path / "given.pt")
    assert server == {
        "sites": ["a", "b"],
        "rounds": 3,
        "longest_round": 60,
        "start": str(tmp_path / "first.pt"),
        "folder": str(tmp_path / "out"),
    }


def test_a_site_with_a_teacher_of_its_own_keeps_it(tmp_path):
    given = tmp_path / "given.pt"
    torch.save({}, given)
    overrides = {"b:teacher_checkpoint": "/models/b.pt"}
    job = write_job(plan_federation(BUNDLES / NAME, SITES, 1, overrides=overrides, teacher=given), tmp_path / "job")
    assert read(job / "app_b" / "config" / "site.json")["overrides"]["teacher_checkpoint"] == "/models/b.pt"


def test_a_folder_that_holds_something_is_refused(plan, tmp_path):
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "mine").touch()
    with pytest.raises(FileExistsError, match="is not empty"):
        write_job(plan, tmp_path / "job")


def test_what_a_job_does_not_carry_is_refused(tmp_path):
    root = tmp_path / "with_scripts_segmentation"
    shutil.copytree(BUNDLES / NAME, root, ignore=shutil.ignore_patterns("models", "eval"))
    (root / "scripts").mkdir()
    (root / "scripts" / "losses.py").touch()
    plan = plan_federation(root, SITES, 1)
    with pytest.raises(ValueError, match=r"Python files of its own \(losses.py\)"):
        write_job(plan, tmp_path / "job")
    write_job(plan, tmp_path / "here", here=tmp_path)
    (tmp_path / "demo.json").write_text("{}", encoding="utf-8")
    plan = plan_federation(BUNDLES / NAME, SITES, 1, config_files=[tmp_path / "demo.json"])
    with pytest.raises(ValueError, match=r"several configuration files named \['demo.json'\]"):
        write_job(plan, tmp_path / "job")
