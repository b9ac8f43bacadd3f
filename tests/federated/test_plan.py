import pytest

from monai_kd.federated import plan_federation

from ..bundles.running import BUNDLES

KIDNEY = BUNDLES / "hlfd_kidney_tumor_segmentation"
ENDOSCOPY = BUNDLES / "mhakd_gi_endoscopy_classification"
SITES = {"a": "/data/a", "b": "/data/b"}


def test_a_site_has_the_common_keys_and_its_own():
    given = {"batch_size": 1, "b:batch_size": 4, "b:train#trainer#amp": False}
    plan = plan_federation(KIDNEY, SITES, 5, overrides=given)
    assert plan.overrides_of("a") == {"dataset_dir": "/data/a", "batch_size": 1}
    assert plan.overrides_of("b") == {"dataset_dir": "/data/b", "batch_size": 4, "train#trainer#amp": False}


@pytest.mark.parametrize(
    ("bundle", "sites", "more", "message"),
    [
        (KIDNEY, {}, {}, "it has no site"),
        (KIDNEY, {"server": "/a"}, {}, "'server' names a site"),
        (KIDNEY, {"a b": "/a"}, {}, "'a b' names a site"),
        (KIDNEY, {"a": "data"}, {}, "the data of site 'a' need a whole path, got 'data'"),
        (KIDNEY, SITES, {"rounds": 0}, "rounds is a whole number from 1, got 0"),
        (KIDNEY, SITES, {"local_epochs": -1}, "local_epochs is a whole number from 1, got -1"),
        (KIDNEY, SITES, {"longest_round": -5}, "longest_round is a whole number from 0, got -5"),
        (KIDNEY, SITES, {"overrides": {"epochs": 5}}, r"\['epochs'\] are the federation's own"),
        (KIDNEY, SITES, {"overrides": {"a:ckpt_dir": "x"}}, r"\['ckpt_dir'\] are the federation's own"),
        (KIDNEY, SITES, {"overrides": {"a:dataset_dir": "$1"}}, r"\['dataset_dir'\] are the federation's own"),
        (KIDNEY, SITES, {"overrides": {"c:batch_size": 1}}, r"overrides are of the sites \['c'\]; there are a, b"),
        (KIDNEY, SITES, {"overrides": {"batchsize": 1}}, "no key 'batchsize' .* did you mean 'batch_size'?"),
        (KIDNEY, SITES, {"overrides": {"b:bach_size": 1}}, "no key 'bach_size' .* did you mean 'batch_size'?"),
        (ENDOSCOPY, SITES, {"teacher": KIDNEY / "LICENSE"}, "no key 'teacher_checkpoint' for one teacher"),
    ],
)
def test_what_cannot_be_is_refused(bundle, sites, more, message):
    with pytest.raises(ValueError, match=message):
        plan_federation(bundle, sites, **{"rounds": 2, **more})


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ValueError, match=r"rounds is a .*'all' names .*'bach_size'"):
        plan_federation(KIDNEY, {"all": "/a"}, 0, overrides={"bach_size": 1})


def test_one_mistake_in_the_keys_of_all_sites_is_said_once():
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        plan_federation(KIDNEY, SITES, 2, overrides={"bach_size": 1})
    assert str(caught.value).count("bach_size") == 1


@pytest.mark.parametrize("more", [{"teacher": "none.pt"}, {"start": "none.pt"}, {"config_files": ["none.json"]}])
def test_a_file_that_is_not_there_is_named(more):
    with pytest.raises(FileNotFoundError, match=r"none\."):
        plan_federation(KIDNEY, SITES, 2, **more)
