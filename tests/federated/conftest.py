"""As for the bundles: what a run changes in this process is put back, and sums are those of one thread."""

from ..bundles.conftest import keep_the_hooks, keep_the_hooks_from_what_a_module_trains, one_thread

__all__ = ["keep_the_hooks", "keep_the_hooks_from_what_a_module_trains", "one_thread"]
