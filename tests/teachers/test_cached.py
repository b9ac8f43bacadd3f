"""A cached teacher is its teacher to half precision, and forgets exactly what is stale."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedTrainer
from monai.transforms import Compose, RandFlipd, ScaleIntensityd
from torch import nn

from monai_kd.adapters import ProjectionAdapter
from monai_kd.data import ReplayedDataset
from monai_kd.distiller import DistillationTerm, Distiller
from monai_kd.handlers import DistillationHandler
from monai_kd.losses import HintLoss, SoftTargetLoss
from monai_kd.taps import FeatureTaps
from monai_kd.teachers import CachedTeacher, EMATeacher, FrozenTeacher, Teacher
from monai_kd.teachers import cached as module

CONVOLUTIONS = {2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
TAPS = ["0", "output"]


def network(dims=2, channels=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        CONVOLUTIONS[dims](1, channels, 3, padding=1),
        NORMS[dims](channels),
        nn.Dropout(0.5),
        CONVOLUTIONS[dims](channels, 3, 1),
    )


def images(dims=2, batch=3, seed=0):
    return torch.randn(batch, 1, *[6] * dims, generator=torch.Generator().manual_seed(seed))


class Counted(nn.Module):
    """A network that counts the images it sees."""

    def __init__(self, network):
        super().__init__()
        self.inner = network
        self.seen = 0

    def forward(self, x):
        self.seen += len(x)
        return self.inner(x)


def teacher_of(dims=2, **kwargs):
    return FrozenTeacher(Counted(network(dims)), **kwargs)


def stored(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def seen(cached):
    return cached.teacher.network.seen


@pytest.mark.parametrize("dims", [2, 3])
def test_answers_are_the_teachers_to_half_precision(dims, tmp_path):
    cached = CachedTeacher(teacher_of(dims), tmp_path)
    x = images(dims)
    taps = ["inner.0", "output"]
    expected = teacher_of(dims)({"image": x}, taps)
    for _ in range(2):
        found = cached({"image": x}, taps)
        for tap in taps:
            assert found[tap].dtype == torch.float32
            assert torch.equal(found[tap], expected[tap].half().float())
    assert (cached.hits, cached.misses) == (3, 3)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_hit_gives_the_loss_and_the_gradient_of_a_miss(dims, tmp_path):
    x = images(dims)

    def step(teacher):
        student = network(dims, seed=1).eval()
        torch.manual_seed(2)
        terms = [
            DistillationTerm("soft", SoftTargetLoss()),
            DistillationTerm("hint", HintLoss(), "0", "0", adapter=ProjectionAdapter),
        ]
        distiller = Distiller(student, teacher, terms, input_shape=(2, 1, *[6] * dims))
        with FeatureTaps(student, distiller.student_taps) as taps:
            losses = distiller({"output": student(x), **taps.outputs()}, {"image": x})
        distiller.total(losses, 1).backward()
        return {name: value.detach() for name, value in losses.items()}, student[0].weight.grad

    live, cached = FrozenTeacher(network(dims)), CachedTeacher(FrozenTeacher(network(dims)), tmp_path)
    without, miss, hit = step(live), step(cached), step(cached)
    assert (cached.hits, cached.misses) == (3, 3 + 2)  # and the zeros of two dry runs, which are not stored
    for name, value in without[0].items():
        assert torch.equal(hit[0][name], miss[0][name])
        torch.testing.assert_close(hit[0][name], value, rtol=1e-3, atol=1e-5)
    assert torch.equal(hit[1], miss[1])
    assert hit[1].any()
    torch.testing.assert_close(hit[1], without[1], rtol=1e-2, atol=1e-4)


def test_it_is_a_teacher_of_which_nothing_is_saved_or_trained(tmp_path):
    cached = CachedTeacher(teacher_of(), tmp_path)
    assert isinstance(cached, Teacher)
    assert list(cached.parameters()) == list(cached.buffers()) == []
    assert cached.state_dict() == {}
    assert not nn.Sequential(cached).train()[0].training
    assert not cached.teacher.network.training
    assert not cached({"image": images().requires_grad_()}, TAPS[1:])["output"].requires_grad
    with pytest.raises(ValueError, match=r"the teacher 'big' \(Counted\) has no layer named 'zero'"):
        cached.check(["zero"], "big")
    student = network()
    with pytest.raises(ValueError, match="shares weights with the student"):
        Distiller(student, CachedTeacher(FrozenTeacher(student), tmp_path), [DistillationTerm("s", SoftTargetLoss())])


# --- what is stale ----------------------------------------------------------------------------------------------------


def answered(teacher, folder, x):
    """How many images a new run had to ask its teacher for."""
    cached = CachedTeacher(teacher, folder)
    cached({"image": x}, ["output"])
    return cached.misses


def test_another_run_reads_it(tmp_path):
    assert answered(teacher_of(), tmp_path, images()) == 3
    assert answered(teacher_of(), tmp_path, images().flip(0)) == 0


def test_one_image_makes_its_own_answer_stale(tmp_path):
    x = images()
    answered(teacher_of(), tmp_path, x)
    x[1, 0, 2, 3] += 1e-6
    assert answered(teacher_of(), tmp_path, x) == 1
    assert answered(teacher_of(), tmp_path, images()) == 0


def test_one_weight_makes_all_stale(tmp_path):
    answered(teacher_of(), tmp_path, images())
    other = teacher_of()
    with torch.no_grad():
        other.network.inner[3].weight[0, 0] += 1e-6
    assert answered(other, tmp_path, images()) == 3
    assert answered(teacher_of(), tmp_path, images()) == 0


def test_weights_that_change_during_a_run_are_noticed(tmp_path):
    cached = CachedTeacher(teacher_of(), tmp_path)
    x = {"image": images()}
    before = cached(x, ["output"])["output"]
    cached.teacher.network.load_state_dict(Counted(network(seed=5)).state_dict())
    after = cached(x, ["output"])["output"]
    assert cached.misses == 6
    assert not torch.equal(before, after)


def test_weights_put_in_through_data_are_noticed(tmp_path):
    """Neither the parameter nor its version is another then."""
    cached, x = CachedTeacher(teacher_of(), tmp_path), {"image": images()}
    before = [cached(x, ["output"])["output"] for _ in range(2)][1]  # read once: what is stored is trusted from now on
    weight = cached.teacher.network.inner[3].weight
    version = weight._version
    weight.data = weight.detach() + 1
    assert weight._version == version
    after = cached(x, ["output"])["output"]
    assert cached.misses == 6
    assert not torch.equal(before, after)


class Masked(nn.Module):
    """Answers with -inf where the image is negative, such as logits of classes that cannot be."""

    def __init__(self, value=-torch.inf, factor=1.0):
        super().__init__()
        self.body = nn.Conv2d(1, 1, 1)
        nn.init.ones_(self.body.weight)
        nn.init.zeros_(self.body.bias)
        self.value, self.factor = value, factor

    def forward(self, x):
        return (self.factor * x).masked_fill(x < 0, self.value)


def test_answers_that_are_not_finite_are_no_other_ones(tmp_path):
    """inf - inf is no number; what was stored is held against that of the next run all the same."""
    x = images()
    assert answered(FrozenTeacher(Masked()), tmp_path, x) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answered(FrozenTeacher(Masked()), tmp_path, x) == 0


@pytest.mark.parametrize("other", [Masked(torch.inf), Masked(0.0), Masked(factor=1.1)])
def test_other_answers_beside_what_is_not_finite_are_noticed(tmp_path, other):
    answered(FrozenTeacher(Masked()), tmp_path, images())
    with pytest.warns(UserWarning, match="are not those of this teacher"):
        assert answered(FrozenTeacher(other), tmp_path, images()) == 3


def test_a_transform_makes_stale_what_it_changes(tmp_path):
    items = [{"image": torch.full((1, 4, 4), float(i))} for i in (0, 1, 3)]

    def misses(*transforms):
        cached = CachedTeacher(teacher_of(), tmp_path)
        return cached.fill(DataLoader(Dataset(items, Compose(list(transforms))), batch_size=2), progress=False)

    assert misses() == 3
    assert misses() == 0
    assert misses(ScaleIntensityd("image", minv=None, maxv=None, factor=1.0)) == 2  # twice 0 is 0
    assert misses(ScaleIntensityd("image", minv=None, maxv=None, factor=1.0)) == 0


def test_the_teachers_own_transform_counts(tmp_path):
    answered(teacher_of(), tmp_path, images())
    assert answered(teacher_of(transform=lambda x: 2 * x), tmp_path, images()) == 3
    assert answered(teacher_of(transform=lambda x: x.flip(2)), tmp_path, images().flip(2)) == 0


def test_other_code_of_the_same_layers_is_noticed(tmp_path):
    answered(teacher_of(), tmp_path, images())
    other = teacher_of()
    other.network.inner[3].forward = lambda x: torch.zeros(len(x), 3, 6, 6)
    cached = CachedTeacher(other, tmp_path)
    with pytest.warns(UserWarning, match="are not those of this teacher"):
        found = cached({"image": images()}, ["output"])["output"]
    assert not found.any()
    assert cached.misses == 3
    assert answered(other, tmp_path, images()) == 0


def test_a_small_edit_of_the_code_is_noticed(tmp_path):
    answered(teacher_of(), tmp_path, images())
    other = teacher_of()
    forward = other.network.forward
    other.network.forward = lambda x: 1.01 * forward(x)
    with pytest.warns(UserWarning, match="are not those of this teacher"):
        assert answered(other, tmp_path, images()) == 3


def test_other_taps_are_added(tmp_path):
    x = {"image": images()}
    first = CachedTeacher(teacher_of(), tmp_path)
    first(x, ["inner.0"])
    assert CachedTeacher(teacher_of(), tmp_path)(x, ["inner.3"])
    assert len(stored(tmp_path)) == 3
    again = CachedTeacher(teacher_of(), tmp_path)
    again(x, ["inner.0", "inner.3", "output"])
    assert again.misses == 0


# --- files ------------------------------------------------------------------------------------------------------------


def test_answers_are_mapped_and_half(tmp_path):
    CachedTeacher(teacher_of(), tmp_path)({"image": images()}, ["inner.0"])
    for path in tmp_path.rglob("*.pt"):
        answer = torch.load(path, weights_only=True, mmap=True)["answer"]
        assert {value.dtype for value in answer.values()} == {torch.float16}
        assert path.stat().st_size < sum(value.numel() * 2 for value in answer.values()) + 4096  # no batch along


def test_an_interrupted_fill_leaves_whole_files_and_goes_on(tmp_path, monkeypatch):
    loader = DataLoader(Dataset([{"image": one} for one in images(batch=5)]), batch_size=2)
    save, count = torch.save, []

    def interrupted(content, file):
        count.append(1)
        if len(count) == 4:
            file.write(b"half of it")
            raise KeyboardInterrupt
        save(content, file)

    monkeypatch.setattr(module.torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        CachedTeacher(teacher_of(), tmp_path).fill(loader, progress=False)
    monkeypatch.undo()
    assert len(stored(tmp_path)) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cached = CachedTeacher(teacher_of(), tmp_path)
        assert cached.fill(loader, progress=False) == 2
    assert len(stored(tmp_path)) == 5
    assert seen(cached) == 3  # and one that was compared


def test_a_damaged_file_is_made_anew(tmp_path):
    answered(teacher_of(), tmp_path, images())
    path = next(tmp_path.rglob("*.pt"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="cannot be read"):
        assert answered(teacher_of(), tmp_path, images()) == 1
    assert answered(teacher_of(), tmp_path, images()) == 0


def test_a_file_altered_in_its_middle_is_made_anew(tmp_path):
    """Of any image, not only of the first one of a run, which the teacher answers again."""
    answered(teacher_of(), tmp_path, images())
    for path in tmp_path.rglob("*.pt"):
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 64] = bytes(byte ^ 17 for byte in content[middle : middle + 64])
        path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"cannot be read \(the checksum of its '.*' is wrong\)"):
        assert answered(teacher_of(), tmp_path, images()) == 3
    assert answered(teacher_of(), tmp_path, images()) == 0


def test_nothing_is_stored_without_gradients(tmp_path):
    cached = CachedTeacher(teacher_of(), tmp_path)
    with torch.no_grad():
        cached({"image": images()}, ["output"])
    assert stored(tmp_path) == set()


def test_a_bar_shows_the_filling(tmp_path, capsys):
    loader = DataLoader(Dataset([{"image": one} for one in images()]), batch_size=1)
    CachedTeacher(teacher_of(), tmp_path).fill(loader)
    assert "teacher's answers: 100%" in capsys.readouterr().err


# --- images and answers -----------------------------------------------------------------------------------------------


class Several(nn.Module):
    """Layers that return a list, that run twice, and one that returns no row an image."""

    def __init__(self):
        super().__init__()
        self.levels = Levels()
        self.twice = nn.Conv2d(2, 2, 1)
        self.total = Total()

    def forward(self, x):
        a, b = self.levels(x)
        self.total(a)
        return self.twice(self.twice(a) + b)


class Levels(nn.Module):
    def forward(self, x):
        return x.repeat(1, 2, 1, 1), 2 * x


class Total(nn.Module):
    def forward(self, x):
        return x.sum()


def test_lists_stay_lists(tmp_path):
    teacher = FrozenTeacher(Several())
    cached, x = CachedTeacher(teacher, tmp_path), {"image": images()}
    expected = teacher(x, ["levels", "twice"])
    for _ in range(2):
        found = cached(x, ["levels", "twice"])
        for tap in ("levels", "twice"):
            assert [len(found[tap]), len(expected[tap])] == [2, 2]
            for one, other in zip(found[tap], expected[tap]):
                assert torch.equal(one, other.half().float())


def test_what_cannot_be_stored_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'total' returned \(\) for 3 images, not one row an image"):
        CachedTeacher(FrozenTeacher(Several()), tmp_path)({"image": images()}, ["total"])
    with pytest.raises(ValueError, match="half precision ends at 65504"):
        CachedTeacher(FrozenTeacher(Several()), tmp_path)({"image": 1e5 * images()}, ["levels"])
    assert stored(tmp_path) == set()


def test_equal_images_of_a_batch_are_asked_for_once(tmp_path):
    cached = CachedTeacher(teacher_of(), tmp_path)
    x = images(batch=2)[[0, 1, 0, 0]]
    found = cached({"image": x}, ["output"])["output"]
    assert seen(cached) == 2
    assert torch.equal(found[0], found[3])
    assert not torch.equal(found[0], found[1])


def test_part_of_a_batch_is_asked_for(tmp_path):
    x = images(batch=4)
    whole = CachedTeacher(teacher_of(), tmp_path / "a")({"image": x}, ["output"])["output"]
    cached = CachedTeacher(teacher_of(), tmp_path / "b")
    cached({"image": x[1:2]}, ["output"])
    cached({"image": x[3:]}, ["output"])
    torch.testing.assert_close(cached({"image": x}, ["output"])["output"], whole, rtol=2e-3, atol=1e-3)
    assert cached.misses == 4


def test_images_of_its_own_and_meta_tensors(tmp_path):
    cached = CachedTeacher(teacher_of(input_key="clean"), tmp_path)
    x = images()
    cached({"image": images(seed=1), "clean": MetaTensor(x)}, ["output"])
    cached({"image": images(seed=2), "clean": x}, ["output"])
    assert (cached.input_key, cached.hits) == ("clean", 3)


def test_answers_are_of_full_precision_under_autocast(tmp_path):
    x = {"image": images()}
    with torch.autocast("cpu", torch.bfloat16):
        found = CachedTeacher(teacher_of(), tmp_path)(x, ["output"])["output"]
    assert torch.equal(found, teacher_of()(x, ["output"])["output"].half().float())


def test_only_teachers_that_stay_are_cached(tmp_path):
    for other in (EMATeacher(network(), buffers="copy"), network()):
        with pytest.raises(TypeError, match=f"a {type(other).__name__} may answer otherwise"):
            CachedTeacher(other, tmp_path)


# --- training ---------------------------------------------------------------------------------------------------------


def items(count=4):
    return [{"image": one, "label": (one > 0).float()} for one in images(batch=count)]


def test_random_views_are_refused_by_name(tmp_path):
    dataset = Dataset(items(), Compose([RandFlipd(["image", "label"])]))
    message = r"RandFlipd \(of image, label\) gives other images each time"
    with pytest.raises(ValueError, match=message):
        CachedTeacher(teacher_of(), tmp_path, dataset)
    with pytest.raises(ValueError, match=message):
        CachedTeacher(teacher_of(), tmp_path).fill(DataLoader(dataset))


def train(teacher, dataset, epochs=3):
    student = network(seed=1)
    terms = [DistillationTerm("soft", SoftTargetLoss()), DistillationTerm("hint", HintLoss(), "1", "inner.1")]
    distiller = Distiller(student, teacher, terms, input_shape=(2, 1, 6, 6))
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    torch.manual_seed(7)
    SupervisedTrainer(
        "cpu",
        epochs,
        DataLoader(dataset, batch_size=2, shuffle=True),
        student,
        optimizer,
        lambda pred, label: (pred[:, :1] - label).square().mean(),
        train_handlers=[DistillationHandler(distiller)],
    ).run()
    return student


def test_an_unmodified_trainer_asks_the_teacher_once(tmp_path):
    dataset = Dataset(items())
    cached = CachedTeacher(teacher_of(), tmp_path, dataset)
    learned, expected = train(cached, dataset), train(teacher_of(), dataset)
    assert cached.misses == 4 + 1  # the dry run's zeros
    assert cached.hits == 2 * 4
    for one, other in zip(learned.parameters(), expected.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)
    # Bit for bit the same from a cache that was there.
    again = train(CachedTeacher(teacher_of(), tmp_path, dataset), dataset)
    assert all(torch.equal(one, other) for one, other in zip(learned.parameters(), again.parameters()))


def test_replayed_crops_and_flips_are_hits(tmp_path):
    views = ReplayedDataset(Dataset(items(2), Compose([RandFlipd(["image", "label"], prob=0.5)])), views=3)
    cached = CachedTeacher(teacher_of(), tmp_path, views)
    distinct = len({views[index]["image"].numpy().tobytes() for index in range(6)})
    assert distinct > 2
    train(cached, views, epochs=1)
    assert cached.misses == distinct + 1
    train(CachedTeacher(teacher_of(), tmp_path, views), views, epochs=1)
    assert len(stored(tmp_path)) == distinct


def test_a_copy_is_a_teacher_too(tmp_path):
    cached = CachedTeacher(teacher_of(), tmp_path)
    cached({"image": images()}, ["output"])
    twin = copy.deepcopy(cached)
    twin({"image": images()}, ["output"])
    assert twin.hits == cached.hits + 3
