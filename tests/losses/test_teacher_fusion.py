from __future__ import annotations

import copy
import math

import pytest
import torch

from monai_kd.losses import MultiTeacherAttentionFusion

CHANNELS = (6, 4, 5)
GRIDS = [(2, 3), (2, 3, 2)]
every_dimension = pytest.mark.parametrize("grid", GRIDS, ids=["2D", "3D"])
both_queries = pytest.mark.parametrize("query", ["teachers", "student"])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def fusion_for(grid=(2, 3), channels=CHANNELS, random=True, **kwargs):
    fusion = MultiTeacherAttentionFusion(channels, 3, dimension=8, num_heads=2, positions=grid, **kwargs)
    if random:
        for parameter in fusion.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return fusion.double()


def maps_for(grid=(2, 3), count=2, channels=CHANNELS):
    student = torch.randn(count, 8, *grid).double()
    return student, [torch.randn(count, c, *grid).double() for c in channels]


def normalise(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()


def naive(fusion, student, teachers):
    """One item and one position at a time, in the letters of the docstring."""
    d, h = 8, 2
    w_in, b_in = fusion.attention.in_proj_weight, fusion.attention.in_proj_bias
    w_out, b_out = fusion.attention.out_proj.weight, fusion.attention.out_proj.bias
    results = []
    for b in range(student.shape[0]):

        def embed(x, k, n):
            return normalise(x) + fusion.teacher_embedding[k, 0] + fusion.position_embedding[n]

        places = [(k, n) for k in range(len(teachers)) for n in range(student[b, 0].numel())]
        flat = [t[b].flatten(1) for t in teachers]
        tokens = [embed(fusion.projections[k](flat[k][:, n]), k, n) for k, n in places]
        asking = tokens
        if fusion.query == "student":
            asking = [embed(student[b].flatten(1)[:, n], k, n) for k, n in places]
        attended = []
        for token, ask in zip(tokens, asking):
            heads = []
            for i in range(h):
                part = slice(i * d // h, (i + 1) * d // h)
                q, keys, values = (
                    [w_in[j * d : (j + 1) * d][part] @ x + b_in[j * d : (j + 1) * d][part] for x in xs]
                    for j, xs in enumerate(([ask], tokens, tokens))
                )
                share = torch.stack([q[0] @ key / math.sqrt(d / h) for key in keys]).softmax(0)
                heads.append(sum(s * v for s, v in zip(share, values)))
            attended.append(normalise(token + w_out @ torch.cat(heads) + b_out))
        fused = []
        for n in range(student[b, 0].numel()):
            candidates = torch.stack([u for u, place in zip(attended, places) if place[1] == n])
            fused.append((candidates @ fusion.score.weight[0]).softmax(0) @ candidates)
        results.append(torch.stack(fused, dim=1).reshape(d, *student.shape[2:]))
    return torch.stack(results)


@both_queries
@every_dimension
def test_equals_the_formula(grid, query):
    fusion = fusion_for(grid, query=query)
    student, teachers = maps_for(grid)
    fused = fusion(student, teachers)
    torch.testing.assert_close(fused, naive(fusion, student, teachers))
    pooled = fused.flatten(2).mean(2)
    torch.testing.assert_close(fusion.logits(fused), pooled @ fusion.head.weight.T + fusion.head.bias)
    with torch.no_grad():  # torch's fused attention of the evaluation
        torch.testing.assert_close(fusion.eval()(student, teachers), fused)


def test_sizes_of_its_parts():
    with torch.device("meta"):
        fusion = MultiTeacherAttentionFusion((2048, 1024, 1280), 8)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in fusion.named_children()}
    assert counts == {"projections": 696_800, "attention": 103_040, "score": 160, "head": 1_288}
    assert fusion.teacher_embedding.numel() + fusion.position_embedding.numel() == 8_320


@both_queries
@every_dimension
def test_permuting_teachers_with_their_embeddings(grid, query):
    fusion, order = fusion_for(grid, query=query), [2, 0, 1]
    student, teachers = maps_for(grid)
    other = fusion_for(grid, [CHANNELS[k] for k in order], query=query)
    state = copy.deepcopy(fusion.state_dict())
    for new, old in enumerate(order):
        for name in ("weight", "bias"):
            state[f"projections.{new}.{name}"] = fusion.state_dict()[f"projections.{old}.{name}"]
    state["teacher_embedding"] = fusion.teacher_embedding[order]
    other.load_state_dict(state)
    torch.testing.assert_close(other(student, [teachers[k] for k in order]), fusion(student, teachers))
    other.teacher_embedding.data = fusion.teacher_embedding.data  # without their embeddings they are others
    assert not torch.allclose(other(student, [teachers[k] for k in order]), fusion(student, teachers))


def without_attention(fusion):
    """Attention that adds nothing, no embeddings: each token is its own."""
    for parameter in (*fusion.attention.out_proj.parameters(), fusion.teacher_embedding, fusion.position_embedding):
        torch.nn.init.zeros_(parameter)
    return fusion


@both_queries
def test_begins_as_the_mean_over_teachers(query):
    fusion = without_attention(fusion_for(random=False, query=query))
    student, teachers = maps_for()
    tokens = [normalise(normalise(p(t.flatten(2).mT))) for p, t in zip(fusion.projections, teachers)]
    expected = (sum(tokens) / 3).mT.unflatten(2, (2, 3))
    torch.testing.assert_close(fusion(student, teachers), expected)
    fusion.score.weight.data.normal_()
    assert not torch.allclose(fusion(student, teachers), expected)


def test_one_teacher_alone_keeps_its_directions():
    """One teacher, an identity for its projection and no attention: what is left is the teacher, brought to one scale.

    Its features are centred over the channels, which is all that layer normalisation does to a direction."""
    fusion = without_attention(fusion_for(channels=(8,)))
    fusion.projections[0].weight.data = torch.eye(8).double()
    torch.nn.init.zeros_(fusion.projections[0].bias)
    student, (teacher,) = maps_for(channels=(8,))
    teacher = 30 * (teacher - teacher.mean(1, keepdim=True))
    cosine = torch.cosine_similarity(fusion(student, [teacher]), teacher)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_each_position_asks_all_teachers_and_positions():
    fusion = fusion_for()
    student, teachers = maps_for(count=1)
    for one in teachers:
        one.requires_grad_()
    tokens = {}
    fusion.attention.register_forward_hook(lambda _, args, __: tokens.update(x=args[1]))
    corner = fusion(student, teachers)[0, :, 0, 0].square().sum()
    (gradient,) = torch.autograd.grad(corner, tokens["x"])
    assert gradient.shape == (1, 18, 8)
    assert gradient.abs().sum(2).gt(0).all()


@both_queries
def test_items_do_not_mix_and_one_is_enough(query):
    fusion = fusion_for(query=query)
    student, teachers = maps_for(count=3)
    alone = fusion(student[1:2], [t[1:2] for t in teachers])
    torch.testing.assert_close(alone, fusion(student, teachers)[1:2])


@both_queries
def test_no_gradient_to_teachers_and_student(query):
    fusion = fusion_for(query=query)
    student, teachers = maps_for()
    leaves = [x.requires_grad_() for x in (student, *teachers)]
    fused = fusion(student, teachers)
    fusion.logits(fused).pow(3).sum().backward()
    assert [x.grad for x in leaves] == [None] * 4
    assert [name for name, p in fusion.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_only_an_asking_student_counts():
    student, teachers = maps_for()
    for query, counts in (("teachers", False), ("student", True)):
        fusion = fusion_for(query=query)
        assert torch.allclose(fusion(student, teachers), fusion(student.flip(0), teachers)) is not counts
    fusion_for()(None, teachers)
    with pytest.raises(ValueError, match=r"expected a map of the student of shape \('B', 8, 2, 3\), got None"):
        fusion(None, teachers)


@every_dimension
def test_maps_of_other_sizes_are_resampled(grid):
    fusion = fusion_for(grid)
    student, teachers = maps_for(grid)
    finer = [teachers[0], *(t.repeat_interleave(2, 2).repeat_interleave(2, 3) for t in teachers[1:])]
    if len(grid) == 3:
        finer[1] = finer[1].repeat_interleave(2, 4)
    torch.testing.assert_close(fusion(student, finer), fusion(student, teachers))  # halves are means of their parts


def test_computes_in_float32_under_autocast():
    fusion = fusion_for().float()
    student, teachers = maps_for()
    teachers = [t.bfloat16() for t in teachers]
    expected = fusion.logits(fusion(None, [t.float() for t in teachers]))
    with torch.autocast("cpu", torch.bfloat16):
        fused = fusion(student, teachers)
        logits = fusion.logits(fused)
    assert fused.dtype == logits.dtype == torch.float32
    assert torch.equal(logits, expected)


def test_learns_from_teachers_run_in_inference_mode():
    fusion = fusion_for()
    with torch.inference_mode():
        student, teachers = maps_for()
    fusion(student, teachers).pow(3).sum().backward()
    assert fusion.projections[0].weight.grad.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": ()}, r"a teacher at least.*got channels \(\)"),
        ({"channels": (4, 0)}, r"channels \(4, 0\)"),
        ({"num_classes": 0}, "0 classes"),
        ({"num_heads": 3}, "3 heads do not divide 160"),
        ({"positions": (7,)}, r"two or three axes, got \(7,\)"),
        ({"positions": (7, 0)}, r"got \(7, 0\)"),
        ({"query": "labels"}, "'teachers' or 'student', got 'labels'"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiTeacherAttentionFusion(**{"channels": CHANNELS, "num_classes": 3, **arguments})


def test_maps_are_checked():
    fusion = fusion_for()
    student, teachers = maps_for()
    for wrong in (teachers[:2], teachers[::-1], [*teachers[:2], teachers[2].unsqueeze(-1)], []):
        with pytest.raises(ValueError, match=r"3 teachers with \(6, 4, 5\) channels and 2 spatial axes, in this order"):
            fusion(student, wrong)
    with pytest.raises(ValueError, match="a list of maps, one a teacher, got one tensor"):
        fusion(student, teachers[0])
