"""Sizes of images as a bundle's metadata writes them, such as "16*n"."""

from __future__ import annotations

import ast
import operator

__all__ = ["usual_size"]

_ANY = 64
_LEAST = 32  # no single voxel at a usual depth
_MOST = 1 << 20
_LONGEST = 100  # characters of a pattern


def _power(base: int, exponent: int) -> int:
    if abs(base) > _MOST or not 0 <= exponent <= _MOST.bit_length():
        raise ValueError("no size is so large")
    return int(base**exponent)


_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: _power,
}


def usual_size(pattern: int | str) -> int:
    """The size itself; of a pattern of the whole numbers ``n`` and ``p``, its smallest size from 32 on.

    Raises:
        ValueError: the pattern is none.

    Example:
        >>> [usual_size(pattern) for pattern in (96, "16*n", "2**p*n", "5*n + 1", "*")]
        [96, 32, 32, 36, 64]
    """
    if isinstance(pattern, int):
        if not 0 < pattern <= _MOST:
            raise ValueError(f"expected a size from 1 to {_MOST}, got {pattern}")
        return pattern
    if pattern == "*":
        return _ANY
    try:
        if len(pattern) > _LONGEST:
            raise ValueError("no pattern is so long")
        tree = ast.parse(pattern.strip(), mode="eval").body
        sizes = [_value(tree, p, n) for p in range(1, 9) for n in range(1, 65)]
    except (SyntaxError, ValueError, TypeError, KeyError, ArithmeticError, AttributeError):
        raise ValueError(f"expected a size, '*' or a pattern of n and p such as '16*n', got {pattern!r}") from None
    return min((size for size in sizes if size >= _LEAST), default=_LEAST)


def _value(node: ast.expr, p: int, n: int) -> int:
    if isinstance(node, ast.BinOp):
        return int(_OPERATORS[type(node.op)](_value(node.left, p, n), _value(node.right, p, n)))
    return {"p": p, "n": n}[node.id] if isinstance(node, ast.Name) else int(ast.literal_eval(node))
