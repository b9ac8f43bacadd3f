"""Trainings sum in the order of the processes that they are held against."""

from ..bundles.conftest import one_thread

__all__ = ["one_thread"]
