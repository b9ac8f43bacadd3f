from __future__ import annotations

import copy

import pytest
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from monai.losses import DeepSupervisionLoss, DiceCELoss
from torch import nn

from monai_kd.handlers import LabelledItemsHandler
from monai_kd.losses import FocalDiceLoss

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}


class Heads(nn.Module):
    """One output, a list of two, or both stacked as DynUNet stacks them."""

    def __init__(self, dims, layout):
        super().__init__()
        self.layout = layout
        self.heads = nn.ModuleList([CONVOLUTIONS[dims](1, 3, 3, padding=1) for _ in range(2)])

    def forward(self, x):
        outputs = [head(x) for head in self.heads]
        if self.layout == "stacked":
            return torch.stack(outputs, dim=1)
        return outputs[0] + outputs[1] if self.layout == "single" else outputs


def dice():
    return DiceCELoss(to_onehot_y=True, softmax=True)


LOSSES = {
    "single": dice,
    "list": lambda: DeepSupervisionLoss(dice()),
    "stacked": lambda: lambda prediction, label: DeepSupervisionLoss(dice())(prediction.unbind(1), label),
}


def batch_of(dims, flags, kind=torch.Tensor):
    generator = torch.Generator().manual_seed(0)
    shape = (len(flags), 1, *[8] * dims)
    image = torch.randn(shape, generator=generator)
    label = torch.randint(0, 3, shape, generator=generator).float()
    if kind is MetaTensor:
        image, label = MetaTensor(image), MetaTensor(label)
    return {"image": image, "label": label, "has_label": torch.tensor(flags)}


def train(net, batches, loss, handlers=(), epochs=1, **kwargs):
    """The network after training and the loss of the last iteration."""
    net = copy.deepcopy(net)
    trainer = SupervisedTrainer(
        "cpu", epochs, batches, net, torch.optim.SGD(net.parameters(), lr=0.5), loss, train_handlers=list(handlers),
        decollate=False, **kwargs,
    )  # fmt: skip
    trainer.run()
    return net, trainer.state.output["loss"]


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def pick(batch, items):
    return {key: value[items] for key, value in batch.items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("layout", LOSSES)
def test_a_mixed_batch_trains_on_its_labelled_items(layout, dims, amp):
    net, batch = Heads(dims, layout), batch_of(dims, [True, False, True, False])
    mixed, loss = train(net, [batch], LOSSES[layout](), [LabelledItemsHandler()], amp=amp)
    expected, expected_loss = train(net, [pick(batch, [0, 2])], LOSSES[layout](), amp=amp)
    torch.testing.assert_close(loss, expected_loss)
    torch.testing.assert_close(weights(mixed), weights(expected))
    everything, _ = train(net, [batch], LOSSES[layout](), amp=amp)
    assert not torch.allclose(weights(mixed), weights(everything))


@pytest.mark.parametrize("layout", LOSSES)
@pytest.mark.parametrize("flags", [[True] * 3, None], ids=["all labelled", "no flags"])
def test_without_unlabelled_items_training_is_bit_identical(layout, flags):
    net, batch = Heads(2, layout), batch_of(2, [True] * 3)
    if flags is None:
        del batch["has_label"]
    handled, loss = train(net, [batch] * 3, LOSSES[layout](), [LabelledItemsHandler()])
    plain, plain_loss = train(net, [batch] * 3, LOSSES[layout]())
    assert torch.equal(weights(handled), weights(plain))
    assert torch.equal(loss, plain_loss)


@pytest.mark.parametrize("layout", LOSSES)
def test_a_batch_without_labels_has_loss_0_and_zero_gradients(layout):
    net = Heads(2, layout)
    trained, loss = train(net, [batch_of(2, [False, False])], LOSSES[layout](), [LabelledItemsHandler()])
    assert loss.item() == 0
    assert loss.requires_grad
    assert torch.equal(weights(trained), weights(net))
    assert all(p.grad is not None and not p.grad.any() for p in trained.parameters())


def test_meta_tensors_and_flags_of_one_column():
    net, batch = Heads(2, "single"), batch_of(2, [True, False, True], MetaTensor)
    batch["has_label"] = batch["has_label"][:, None]
    mixed, _ = train(net, [batch], dice(), [LabelledItemsHandler()])
    expected, _ = train(net, [pick(batch, [0, 2])], dice())
    torch.testing.assert_close(weights(mixed), weights(expected))


def test_another_key():
    net, batch = Heads(2, "single"), batch_of(2, [True, False])
    batch["annotated"] = batch.pop("has_label")
    mixed, _ = train(net, [batch], dice(), [LabelledItemsHandler("annotated")])
    expected, _ = train(net, [pick(batch, [0])], dice())
    torch.testing.assert_close(weights(mixed), weights(expected))


def test_flags_of_one_batch_do_not_reach_the_next():
    net, first = Heads(2, "single"), batch_of(2, [True, False])
    second = {key: value for key, value in batch_of(2, [True, True]).items() if key != "has_label"}
    mixed, _ = train(net, [first, second], dice(), [LabelledItemsHandler()])
    expected, _ = train(net, [pick(first, [0]), second], dice())
    torch.testing.assert_close(weights(mixed), weights(expected))


def test_classification():
    net = nn.Linear(4, 3)
    batch = {"image": torch.randn(4, 4), "label": torch.tensor([0, -1, 2, -1]), "has_label": [True, False, True, False]}
    mixed, _ = train(net, [batch], nn.CrossEntropyLoss(), [LabelledItemsHandler()])
    expected, _ = train(
        net, [{"image": batch["image"][[0, 2]], "label": batch["label"][[0, 2]]}], nn.CrossEntropyLoss()
    )
    torch.testing.assert_close(weights(mixed), weights(expected))


def test_running_twice_wraps_the_loss_once():
    net, batch = Heads(2, "single"), batch_of(2, [True, False])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    loss = dice()
    trainer = SupervisedTrainer("cpu", 1, [batch], net, optimizer, loss, train_handlers=[LabelledItemsHandler()])
    trainer.run()
    trainer.run()
    assert trainer.loss_function.loss is loss


# Which items are labelled, by process: uneven, and in the last step one process has none.
FLAGS = [([True, True, False], [True, False, False]), ([True, True, True], [False, False, False])]


def _two_process_network():
    torch.manual_seed(0)
    return nn.Conv2d(1, 1, 3, padding=1)


def _process(rank, folder):
    net = _two_process_network()
    batches = [pick(batch_of(2, [*a, *b]), slice(3 * rank, 3 * rank + 3)) for a, b in FLAGS]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    wrapped = nn.parallel.DistributedDataParallel(net)
    SupervisedTrainer(
        "cpu", 1, batches, wrapped, optimizer, nn.MSELoss(), train_handlers=[LabelledItemsHandler()]
    ).run()
    torch.save(weights(net), f"{folder}/{rank}.pt")
    _meets_other_processes(batches)


def _meets_other_processes(batches):
    """A loss that sums over the processes is not waited for by those without labelled items."""
    net = nn.parallel.DistributedDataParallel(nn.Conv2d(1, 3, 3, padding=1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    handlers = [LabelledItemsHandler()]
    SupervisedTrainer("cpu", 1, batches, net, optimizer, FocalDiceLoss(), train_handlers=handlers).run()


@pytest.mark.slow
def test_two_processes_give_the_loss_of_the_global_batch(tmp_path, in_processes):
    net = _two_process_network()
    expected, _ = train(net, [batch_of(2, [*a, *b]) for a, b in FLAGS], nn.MSELoss(), [LabelledItemsHandler()])
    in_processes(_process)
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), weights(expected), rtol=0, atol=1e-5)
