"""A bundle's own ``scripts`` made importable, as ``python -m monai.bundle run`` does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def importable(root: Path) -> Iterator[None]:
    """Within, modules of the bundle at ``root`` can be imported; they are forgotten afterwards."""
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path.remove(str(root))
        for name, module in list(sys.modules.items()):  # another bundle has modules of these names too
            file = getattr(module, "__file__", None)
            if file is not None and Path(file).is_relative_to(root):
                del sys.modules[name]
