"""As for the bundles: sums are those of one thread."""

from ..bundles.conftest import one_thread

__all__ = ["one_thread"]
