import pytest

from monai_kd.zoo.size_pattern import usual_size


@pytest.mark.parametrize(
    ("pattern", "size"),
    [
        *[(7, 7), ("96", 96), ("*", 64), ("16*n", 32), ("32 * n", 32), ("2**p*n", 32), ("32 ** p *n", 32)],
        *[("48*n", 48), ("2**p", 32), ("n", 32), ("16*(n + 1) - 1", 47), ("8", 32)],
    ],
)
def test_smallest_size_that_is_usual(pattern, size):
    assert usual_size(pattern) == size


@pytest.mark.parametrize("pattern", ["m*16", "16*", "n/2", "f(n)", "", "n//0", "__import__('os')"])
def test_what_is_no_pattern(pattern):
    with pytest.raises(ValueError, match="a pattern of n and p"):
        usual_size(pattern)
