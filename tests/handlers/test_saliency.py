from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.networks.nets import DenseNet
from monai.transforms import ActivationsD
from PIL import Image
from torch import nn

from monai_kd.handlers import SaliencyMaps, saliency

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'monai-kd[plots]'")

NAMES = ("nv", "mel", "bkl")
LAYER = "class_layers.relu"


def densenet() -> DenseNet:
    """Features above 0 speak for every class: no picture is without heat."""
    torch.manual_seed(0)
    network = DenseNet(2, 3, 3, init_features=8, growth_rate=4, block_config=(2, 2))
    network.class_layers.out.weight.data.abs_()
    return network


class Flat(nn.Module):
    """Features are the image; logits are linear in their means, so Grad-CAM is known."""

    def __init__(self, weight: list[list[float]]) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.out = nn.Linear(3, len(weight), bias=False)
        self.out.weight.data = torch.tensor(weight)

    def forward(self, image):
        return self.out(self.features(image).mean((2, 3)))


def images(count: int = 3, size: tuple[int, int] = (48, 32)) -> torch.Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(1))


def evaluate(network: nn.Module, maps: SaliencyMaps, batch: torch.Tensor, files=None, batch_size=2, **kwargs) -> None:
    files = files or [f"/set/{i}.jpg" for i in range(len(batch))]
    data = [{"image": MetaTensor(image, meta={"filename_or_obj": file})} for image, file in zip(batch, files)]
    kwargs.setdefault("postprocessing", ActivationsD(keys="pred", softmax=True))
    loader = DataLoader(Dataset(data), batch_size=batch_size)
    SupervisedEvaluator(torch.device("cpu"), loader, network, val_handlers=[maps], **kwargs).run()


def pictures(folder: Path) -> dict[str, np.ndarray]:
    return {path.name.split(".")[0]: np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))}


def test_a_picture_of_every_image_named_after_it_and_its_class(tmp_path):
    network, batch = densenet().eval(), images(5)
    maps = SaliencyMaps(network, LAYER, tmp_path, ("nv", "mel / in situ", "../bkl"), [0] * 3, [1] * 3, root="/set")
    evaluate(network, maps, batch)
    classes = [("nv", "mel_in_situ", "_bkl")[i] for i in network(batch).argmax(1)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{i}.jpg.{one}.png" for i, one in enumerate(classes)]
    for i, picture in enumerate(pictures(tmp_path).values()):
        assert picture.shape == (48, 64, 3)
        original = (batch[i] * 255).round().byte().permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(picture[:, :32], original)
        assert (picture[:, 32:] != original).any()


def test_the_heat_of_a_network_whose_grad_cam_is_known(tmp_path):
    """Class 0 looks at the red channel alone, class 1 at green against blue."""
    network = Flat([[9.0, 0, 0], [0, 8.0, -8.0]])
    batch = images(2)
    batch[0, 0], batch[1, 1] = batch[0, 0] + 3, batch[1, 1] + 3
    maps = SaliencyMaps(network, "features", tmp_path, NAMES[:2])
    for image, predicted, expected in zip(batch, (0, 1), (batch[0, 0], batch[1, 1] - batch[1, 2])):
        heat = maps._heat(image, predicted)[0]
        torch.testing.assert_close(heat, expected.relu() / expected.max())
    evaluate(network, maps, batch)
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == ["0.jpg.nv.png", "1.jpg.mel.png"]


def test_where_nothing_speaks_for_the_class_there_is_no_heat(tmp_path):
    network = Flat([[-1.0, -1, -1], [-2.0, -2, -2]])
    maps = SaliencyMaps(network, "features", tmp_path, NAMES[:2], [0] * 3, [1] * 3)
    evaluate(network, maps, images(1))
    (picture,) = pictures(tmp_path).values()
    np.testing.assert_array_equal(picture[:, :32], picture[:, 32:])


def of_all_classes(network: DenseNet) -> torch.Tensor:
    """Images that are predicted each class."""
    batch = images(5) * torch.linspace(0.1, 3, 5).view(5, 1, 1, 1)
    with torch.no_grad():
        logits = network.eval()(batch)
    network.class_layers.out.bias.data -= logits[torch.arange(3) * 2].mean(0)
    return batch


@pytest.mark.parametrize("layer", [LAYER, "features.norm5"])
def test_batches_give_what_single_images_do(layer, tmp_path):
    network = densenet()
    batch = of_all_classes(network)
    assert len(network(batch).argmax(1).unique()) > 1
    for size in (1, 5):
        evaluate(network, SaliencyMaps(network, layer, tmp_path / str(size), NAMES), batch, batch_size=size)
    one, five = pictures(tmp_path / "1"), pictures(tmp_path / "5")
    assert len(one) == len(five) == 5
    assert all((picture[:, :32] != picture[:, 32:]).any() for picture in one.values())
    for name in one:
        np.testing.assert_allclose(one[name].astype(int), five[name].astype(int), atol=1)


def state(network: nn.Module) -> list[tuple]:
    return [
        (
            name,
            module.training,
            getattr(module, "inplace", None),
            len(module._forward_hooks),
            len(module._backward_hooks),
            module._is_full_backward_hook,
            [(p.requires_grad, p.grad) for p in module._parameters.values() if p is not None],
        )
        for name, module in network.named_modules()
    ]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_leaves_the_network_alone(training, frozen, tmp_path):
    network = densenet().train(training).requires_grad_(not frozen)
    before, weights = state(network), copy.deepcopy(network.state_dict())
    evaluate(network, SaliencyMaps(network, LAYER, tmp_path, NAMES), images())
    assert state(network) == before
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())
    assert len(pictures(tmp_path)) == 3


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_where_gradients_are_off(mode, tmp_path):
    network = densenet()
    evaluate(network, SaliencyMaps(network, LAYER, tmp_path / "on", NAMES), images())
    with mode():
        evaluate(network, SaliencyMaps(network, LAYER, tmp_path / "off", NAMES), images())
        inside = densenet()
        evaluate(inside, SaliencyMaps(inside, LAYER, tmp_path / "inside", NAMES), images())
    on, off, inside = (pictures(tmp_path / name) for name in ("on", "off", "inside"))
    for name in on:
        np.testing.assert_array_equal(on[name], off[name])
        np.testing.assert_array_equal(on[name], inside[name])
    assert any((on[name][:, :32] != on[name][:, 32:]).any() for name in on)


def test_every_run_shows_the_weights_of_its_time(tmp_path):
    network = Flat([[9.0, 0, 0], [0, 0, 0]])
    maps = SaliencyMaps(network, "features", tmp_path, NAMES[:2])
    evaluate(network, maps, images(1))
    (before,) = pictures(tmp_path).values()
    network.out.weight.data = torch.tensor([[0, 0, 9.0], [0, 0, 0]])
    evaluate(network, maps, images(1))
    (after,) = pictures(tmp_path).values()
    assert (before[:, :32] == after[:, :32]).all()
    assert (before[:, 32:] != after[:, 32:]).any()
    assert maps._cam is None


@pytest.mark.parametrize("root", [None, "/set"])
def test_equal_names_in_different_folders_stay_apart(root, tmp_path):
    network = densenet()
    files = ["/set/x/a.jpg", "/set/y/../y/a.jpg", "/set/y/a.png"]
    evaluate(network, SaliencyMaps(network, LAYER, tmp_path, NAMES, root=root), images(), files)
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png"))
    start = "set/" if root is None else ""
    assert [name.rpartition(".")[0].rpartition(".")[0] for name in found] == [
        f"{start}x/a.jpg",
        f"{start}y/a.jpg",
        f"{start}y/a.png",
    ]


def test_pictures_stay_in_their_folder(tmp_path):
    network = densenet()
    maps = SaliencyMaps(network, LAYER, tmp_path / "maps", NAMES)
    evaluate(network, maps, images(2), ["../../../up.jpg", "/../../root.jpg"])
    assert len(list((tmp_path / "maps").rglob("*.png"))) == len(list(tmp_path.rglob("*.png"))) == 2
    maps = SaliencyMaps(network, LAYER, tmp_path / "maps", NAMES, root="/set")
    with pytest.raises(ValueError, match=r"image '/up\.jpg' is outside root '/set'"):
        evaluate(network, maps, images(1), ["/set/../up.jpg"])


def test_no_link_leads_out_of_their_folder(tmp_path):
    network = densenet()
    for name in ("maps", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "maps" / "x").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="outside the output folder"):
        evaluate(
            network, SaliencyMaps(network, LAYER, tmp_path / "maps", NAMES, root="/set"), images(1), ["/set/x/a.jpg"]
        )
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_images_without_a_file(tmp_path):
    network = densenet()
    maps = SaliencyMaps(network, LAYER, tmp_path, NAMES)
    loader = [{"image": images(2)}, {"image": images(1)}]
    SupervisedEvaluator(torch.device("cpu"), loader, network, val_handlers=[maps], decollate=False).run()
    assert list(pictures(tmp_path)) == [f"unnamed_0_0000{i}" for i in range(3)]


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_the_normalisation_is_undone(white, tmp_path):
    original = images(1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]) * white, torch.tensor([0.229, 0.224, 0.225]) * white
    network = densenet()
    maps = SaliencyMaps(network, LAYER, tmp_path, NAMES, mean.tolist(), std.tolist(), white=white)
    evaluate(network, maps, (original * white - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    (picture,) = pictures(tmp_path).values()
    expected = (original[0] * 255).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(picture[:, :32], expected, atol=0.51)


def test_images_of_unknown_range_and_of_one_channel_are_stretched(tmp_path):
    network = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    evaluate(network, SaliencyMaps(network, "0", tmp_path, NAMES), 7 - 3 * images(2)[:, :1])
    for picture in pictures(tmp_path).values():
        assert (picture[:, :32].min(), picture[:, :32].max()) == (0, 255)
    flat = SaliencyMaps(network, "0", tmp_path, NAMES)._displayed(torch.full((1, 4, 4), 3.0))
    assert (flat == 0).all()


def test_without_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setattr(saliency, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "monai-kd\[plots\]"'):
        SaliencyMaps(densenet(), LAYER, tmp_path, NAMES)


def test_messages(tmp_path):
    network = densenet()
    with pytest.raises(ValueError, match=r"no layer named 'class_layer.relu' \(closest: class_layers.relu"):
        SaliencyMaps(network, "class_layer.relu", tmp_path, NAMES)
    with pytest.raises(ValueError, match="give both mean and std, or neither"):
        SaliencyMaps(network, LAYER, tmp_path, NAMES, mean=[0.5] * 3)
    with pytest.raises(ValueError, match="std above 0"):
        SaliencyMaps(network, LAYER, tmp_path, NAMES, [0.5] * 3, [0.1, 0.1, 0])
    with pytest.raises(ValueError, match="give white=255 for 8-bit values"):
        SaliencyMaps(network, LAYER, tmp_path, NAMES, [123.7, 116.3, 103.5], [58.4, 57.1, 57.4])
    with pytest.raises(ValueError, match="mean and std are of 1 channels, the image has 3"):
        evaluate(network, SaliencyMaps(network, LAYER, tmp_path, NAMES, [0.5], [0.5]), images())
    with pytest.raises(ValueError, match=r"shape \(2,\) for a, b; got a prediction of shape \(3,\)"):
        evaluate(network, SaliencyMaps(network, LAYER, tmp_path, ["a", "b"]), images())
    with pytest.raises(ValueError, match=r"'class_layers\.flatten' gives no features of shape"):
        evaluate(network, SaliencyMaps(network, "class_layers.flatten", tmp_path, NAMES), images())
    cube = nn.Sequential(nn.Conv3d(1, 3, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    with pytest.raises(ValueError, match=r"\(1, H, W\) or \(3, H, W\), got \(1, 4, 4, 4\)"):
        evaluate(cube, SaliencyMaps(cube, "0", tmp_path, NAMES), torch.rand(1, 1, 4, 4, 4))
    assert not list(tmp_path.rglob("*.png"))
