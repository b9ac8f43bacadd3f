"""What a bundle's run changes in this process is put back; it sums in the order of the processes it is held against."""

from ..bundles.conftest import keep_the_hooks, keep_the_hooks_from_what_a_module_trains, one_thread

__all__ = ["keep_the_hooks", "keep_the_hooks_from_what_a_module_trains", "one_thread"]
