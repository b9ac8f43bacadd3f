from __future__ import annotations

import copy
import importlib.util
import pickle
from contextlib import ExitStack

import monai.networks.nets as nets
import pytest
import torch
from torch import nn

from monai_kd.taps import FeatureTaps, check_tap_names, describe, tap_table, unwrap

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def images(dims, size=6):
    return torch.randn(2, 1, *[size] * dims)


class Net(nn.Module):
    """Picklable; "shared" runs twice, "pair" returns a tuple, "unused" never runs."""

    def __init__(self, dims=2):
        super().__init__()
        convolution = CONVOLUTIONS[dims]
        self.first = convolution(1, 4, 3, padding=1)
        self.shared = convolution(4, 4, 1)
        self.pair = Pair()
        self.unused = convolution(1, 1, 1)

    def forward(self, x):
        x = self.shared(self.first(x))
        return self.pair(self.shared(x.relu()))[0]


class Pair(nn.Module):
    def forward(self, x):
        return x + 1, x - 1


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def hooks_on(model):
    return [name for name, layer in model.named_modules() if layer._forward_hooks or layer._forward_pre_hooks]


@pytest.mark.parametrize("dims", [2, 3])
def test_taps_give_what_the_layers_returned(dims):
    net, x = Net(dims), images(dims)
    with FeatureTaps(net, ["first", "pair"]) as taps:
        output = net(x)
        outputs = taps.outputs()
    torch.testing.assert_close(outputs["first"], net.first(x))
    assert isinstance(outputs["pair"], tuple)
    assert outputs["pair"][0] is output


@pytest.mark.parametrize("dims", [2, 3])
def test_a_layer_that_runs_twice_gives_a_list_in_call_order(dims):
    net, x = Net(dims), images(dims)
    with FeatureTaps(net, ["shared"]) as taps:
        net(x)
        once, twice = taps.outputs()["shared"]
    torch.testing.assert_close(once, net.shared(net.first(x)))
    torch.testing.assert_close(twice, net.shared(once.relu()))


def test_gradients_reach_the_layers_below_a_tap():
    net = Net()
    with FeatureTaps(net, ["first"]) as taps:
        net(images(2))
        taps.outputs()["first"].square().sum().backward()
    assert net.first.weight.grad.any()
    assert net.shared.weight.grad is None


def test_hooks_are_gone_after_the_block():
    net = Net()
    before = set(vars(net.first))
    with FeatureTaps(net, ["first", "shared"]) as taps:
        net(images(2))
        assert hooks_on(net) == ["first", "shared"]
    assert hooks_on(net) == []
    assert set(vars(net.first)) == before
    assert taps._hits == {"first": [], "shared": []}


def test_hooks_are_gone_after_an_exception():
    net = Net()
    with pytest.raises(RuntimeError, match="channels"), FeatureTaps(net, ["first"]):
        net(torch.zeros(1, 2, 4, 4))
    assert hooks_on(net) == []


def test_opening_twice_records_once_and_closing_twice_is_closing_once():
    net = Net()
    taps = FeatureTaps(net, ["first", "first"]).open().open()
    net(images(2))
    assert taps.outputs()["first"].shape == (2, 4, 6, 6)
    taps.close()
    taps.close()
    assert hooks_on(net) == []


def test_clearing_forgets_the_last_pass():
    net = Net()
    with FeatureTaps(net, ["first"]) as taps:
        net(images(2))
        taps.clear()
        net(images(2, size=4))
        assert taps.outputs()["first"].shape == (2, 4, 4, 4)


def test_the_users_own_hooks_stay():
    net, calls = Net(), []
    net.first.register_forward_hook(lambda *_: calls.append(1))
    with FeatureTaps(net, ["first"]):
        net(images(2))
    net(images(2))
    assert len(calls) == 2


def test_taps_of_one_model_do_not_meet():
    net = Net()
    with FeatureTaps(net, ["first"]) as outer:
        with FeatureTaps(net, ["first"]) as inner:
            net(images(2))
            assert inner.outputs()["first"] is outer.outputs()["first"]
        assert outer.outputs()["first"].shape == (2, 4, 6, 6)
        assert hooks_on(net) == ["first"]


def test_a_copied_model_never_writes_into_the_taps():
    net = Net()
    with FeatureTaps(net, ["first"]) as taps:
        twin = copy.deepcopy(net)
        twin(images(2))
        with pytest.raises(RuntimeError, match="'first' returned nothing"):
            taps.outputs()
        x = images(2)
        net(x)
        torch.testing.assert_close(taps.outputs()["first"], net.first(x))


def test_a_pickled_tapped_model_comes_back_with_inert_hooks():
    net = Net()
    with FeatureTaps(net, ["first"]) as taps:
        twin = pickle.loads(pickle.dumps(net))  # noqa: S301
        x = images(2)
        twin(x)
        assert taps._hits["first"] == []
    torch.testing.assert_close(twin(x), net(x))


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda taps: pickle.loads(pickle.dumps(taps))])  # noqa: S301
def test_copied_taps_record_their_own_model(clone):
    net, x = Net(), images(2)
    here, there = net.first(x), net.first(x + 1)
    with FeatureTaps(net, ["first"]) as taps:
        net(x)
        twin = clone(taps)
        assert twin.model is not net
        with pytest.raises(RuntimeError, match="returned nothing"):
            twin.outputs()  # a copy starts empty
        twin.model(x + 1)
        torch.testing.assert_close(twin.outputs()["first"], there)
        torch.testing.assert_close(taps.outputs()["first"], here)
    assert hooks_on(clone(taps).model) == []  # a copy of closed taps is closed


@pytest.mark.usefixtures("process_group")
def test_names_go_through_distributed_data_parallel():
    net, x = Net(), images(2)
    net.unused = nn.Identity()
    wrapped = nn.parallel.DistributedDataParallel(net)
    assert unwrap(wrapped) is net
    with FeatureTaps(wrapped, ["first"]) as taps:
        wrapped(x)
        torch.testing.assert_close(taps.outputs()["first"], net.first(x))


def test_names_go_through_a_compiled_model():
    torch.compiler.reset()
    net, x = Net(), images(2)
    compiled = torch.compile(net, backend="eager")
    assert unwrap(compiled) is net
    for _ in range(3):  # hooks come and go between the calls of one graph
        with FeatureTaps(compiled, ["first", "shared"]) as taps:
            compiled(x)
            outputs = taps.outputs()
        torch.testing.assert_close(outputs["first"], net.first(x))
        assert len(outputs["shared"]) == 2
    outputs["first"].sum().backward()
    assert net.first.weight.grad.any()


def test_taps_opened_after_a_compiled_model_ran_work_or_say_why():
    torch.compiler.reset()
    net, x = Net(), images(2)
    compiled = torch.compile(net, backend="eager")
    compiled(x)
    with FeatureTaps(compiled, ["first"]) as taps:
        compiled(x)
        try:
            torch.testing.assert_close(taps.outputs()["first"], net.first(x))
        except RuntimeError as error:
            assert "torch.compiler.reset()" in str(error)  # noqa: PT017
    torch.compiler.reset()
    with FeatureTaps(compiled, ["first"]) as taps:  # the advice works
        compiled(x)
        torch.testing.assert_close(taps.outputs()["first"], net.first(x))


def test_data_parallel_is_refused():
    with pytest.raises(TypeError, match="use DistributedDataParallel"):
        FeatureTaps(nn.DataParallel(Net()), ["first"])


def test_a_wrong_name_lists_the_closest():
    net = nets.UNet(2, 1, 2, channels=(2, 4, 8), strides=(2, 2))
    with pytest.raises(
        ValueError, match=r"UNet.*'model.1.submodule.0.convv' \(closest: model.1.submodule.0.conv"
    ) as caught:
        FeatureTaps(net, ["model.0", "model.1.submodule.0.convv"])
    assert "'model.0'" not in str(caught.value)
    assert "tap_table" in str(caught.value)
    with pytest.raises(ValueError, match=r"the student \(Net\) has no layer named 'zzz'\. "):
        check_tap_names(Net(), ["zzz"], owner="the student")


def test_the_network_itself_is_no_layer():
    with pytest.raises(ValueError, match="no layer named ''"):
        FeatureTaps(Net(), [""])


def test_a_layer_that_did_not_run_is_reported():
    net = Net()
    with FeatureTaps(net, ["unused"]) as taps:
        net(images(2))
        with pytest.raises(RuntimeError, match=r"'unused' returned nothing.*did not run"):
            taps.outputs()


@pytest.mark.parametrize("dims", [2, 3])
def test_an_output_overwritten_in_place_is_refused(dims):
    net = nn.Sequential(CONVOLUTIONS[dims](1, 4, 3), nn.ReLU(inplace=True))
    with FeatureTaps(net, ["0"]) as taps:
        net(images(dims))
        with pytest.raises(RuntimeError, match=r"'0' was overwritten in place.*tap that later layer"):
            taps.outputs()
    with FeatureTaps(net, ["1"]) as taps:  # the advice works
        output = net(images(dims))
        assert taps.outputs()["1"] is output


def test_an_overwritten_item_of_a_tuple_is_refused():
    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            _, second = self.pair(x)
            return second.relu_()

    net = Overwrites()
    with FeatureTaps(net, ["pair"]) as taps:
        net(images(2))
        with pytest.raises(RuntimeError, match="'pair' was overwritten"):
            taps.outputs()


def test_taps_work_under_inference_mode():
    net, x = Net(), images(2)
    with torch.inference_mode(), FeatureTaps(net, ["first"]) as taps:
        net(x)
        assert taps.outputs()["first"].shape == (2, 4, 6, 6)


NEEDS_EINOPS = pytest.mark.skipif(importlib.util.find_spec("einops") is None, reason="needs einops")
NETWORKS = {
    "UNet 2D": (lambda: nets.UNet(2, 1, 2, (2, 4, 8), (2, 2), num_res_units=1), (2, 1, 16, 16)),
    "UNet 3D": (lambda: nets.UNet(3, 1, 2, (2, 4, 8), (2, 2)), (1, 1, 16, 16, 16)),
    "BasicUNet": (lambda: nets.BasicUNet(2, 1, 2, (2, 2, 4, 4, 8, 2)), (1, 1, 32, 32)),
    "DynUNet": (
        lambda: nets.DynUNet(3, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[2, 4, 8]),
        (1, 1, 16, 16, 16),
    ),
    "SegResNet": (lambda: nets.SegResNet(2, init_filters=8, blocks_down=(1, 1), blocks_up=(1,)), (1, 1, 16, 16)),
    "DenseNet121": (lambda: nets.DenseNet121(2, 1, 2, init_features=8, growth_rate=4), (1, 1, 64, 64)),
    "UNETR": (lambda: nets.UNETR(1, 2, (32, 32), 4, 16, 32, 2, spatial_dims=2), (1, 1, 32, 32)),
    "SwinUNETR": (lambda: nets.SwinUNETR(1, 2, depths=(1, 1, 1, 1), feature_size=12, spatial_dims=2), (1, 1, 64, 64)),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=NEEDS_EINOPS if name in ("UNETR", "SwinUNETR") else ()) for name in NETWORKS]
)
def test_every_layer_of_the_table_can_be_tapped_and_nothing_changes(name):
    make, shape = NETWORKS[name]
    net = make().train()
    next(net.children()).eval()  # modes may be mixed
    modes = {key: module.training for key, module in net.named_modules()}
    state = {key: value.clone() for key, value in net.state_dict().items()}
    random_state = torch.get_rng_state()

    table = tap_table(net, shape)

    assert {key: module.training for key, module in net.named_modules()} == modes
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert hooks_on(net) == []
    assert len(table) > 5

    with torch.no_grad(), ExitStack() as stack:
        taps = {row.name: stack.enter_context(FeatureTaps(net, [row.name])) for row in table}
        net.eval()(torch.zeros(shape))
        read = 0
        for row in table:
            try:
                output = taps[row.name].outputs()[row.name]
            except RuntimeError as error:
                assert "overwritten in place" in str(error)  # noqa: PT017
                continue
            read += 1
            first, times = (output[0], len(output)) if " x" in row.shape else (output, 1)
            assert row.shape == describe(first) + (f" x{times}" if times > 1 else "")
    assert read > len(table) / 2


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("UNet 2D", {"model": "1", "model.0": "2", "model.1.submodule.0": "4", "model.1": "2", "model.2": "1"}),
        ("UNet 3D", {"model": "1", "model.0": "2", "model.1.submodule.0": "4", "model.1": "2", "model.2": "1"}),
        ("BasicUNet", {"conv_0": "1", "down_1": "2", "down_4": "16", "upcat_1": "1"}),
        ("DynUNet", {"input_block": "1", "downsamples.0": "2", "bottleneck": "4", "upsamples.0": "2"}),
        ("DenseNet121", {f"features.denseblock{i}": str(2 ** (i + 1)) for i in (1, 2, 3, 4)} | {"class_layers": "-"}),
        pytest.param("UNETR", {"vit.patch_embedding": "-", "encoder1": "1", "decoder2": "1"}, marks=NEEDS_EINOPS),
        pytest.param("SwinUNETR", {"swinViT.patch_embed": "2", "encoder10": "32", "out": "1"}, marks=NEEDS_EINOPS),
    ],
)
def test_strides_are_those_of_the_architecture(name, strides):
    make, shape = NETWORKS[name]
    table = {row.name: row.stride for row in tap_table(make(), shape)}
    assert {key: table[key] for key in strides} == strides


def test_anisotropic_strides_are_listed_per_axis():
    table = tap_table(nn.Sequential(nn.Conv3d(1, 2, 1, stride=(1, 2, 2))), (1, 1, 4, 8, 8))
    assert table[0].stride == "1x2x2"


def test_the_table_counts_repeated_layers_and_leaves_out_unused_ones():
    rows = {row.name: row for row in tap_table(Net(), (1, 1, 6, 6))}
    assert rows["shared"].shape == "(1, 4, 6, 6) x2"
    assert rows["pair"].shape == "[(1, 4, 6, 6), (1, 4, 6, 6)]"
    assert rows["first"].parameters == 40
    assert "unused" not in rows


def test_a_failing_table_leaves_no_hooks_and_the_mode():
    net = Net().train()
    with pytest.raises(RuntimeError):
        tap_table(net, (1, 3, 6, 6))
    assert hooks_on(net) == []
    assert net.training
