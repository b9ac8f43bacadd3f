"""Trainings sum in the order of the processes that are killed."""

from ..bundles.conftest import one_thread

__all__ = ["one_thread"]
