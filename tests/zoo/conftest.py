"""The bundles of a zoo, each with a network trained for a moment."""

import shutil

import pytest

from .. import zoo_bundles


@pytest.fixture(scope="session")
def run_bundle():
    return zoo_bundles.run


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """The bundle of a name: made and trained when it is first asked for."""
    made = {}

    def bundle(name):
        if name not in made:
            root = tmp_path_factory.mktemp("zoo") / name
            zoo_bundles.make(name, root)
            _train(root, run_id="training" if name == "swin_unetr_segmentation" else None)
            made[name] = root
        return made[name]

    return bundle


def _train(root, run_id):
    """Weights as the bundle's own training leaves them."""
    flow = zoo_bundles.run(root, "train", run_id=run_id, dataset_dir=str(root.with_name("data")))
    if not (root / "models" / "model.pt").is_file():
        zoo_bundles.save_weights(root, flow.parser)
    shutil.rmtree(root / "eval", ignore_errors=True)
