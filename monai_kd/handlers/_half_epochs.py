"""An epoch that a stopped run has begun and another goes on with: what its handlers agree upon."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, EventEnum

_DONE, _CARRIED = "steps_done", "carried"
RANDOM_STATES = "random states"  # what is carried where somebody takes the batches of the steps that are done


class ResumeEvents(EventEnum):
    """What a trainer fires before the first step of a run that goes on within an epoch."""

    STEP_SKIPPED = "step_skipped"
    """Of each step that is done already: who draws from a loader of its own takes that step's batch, and leaves it."""


def steps_done(engine: Engine) -> int:
    """How many steps of the epoch that starts another run has done; 0 but in the first epoch of a resumed one."""
    return getattr(engine.state, _DONE, 0)


def set_steps_done(engine: Engine, count: int) -> None:
    """Say so, before the epoch starts."""
    setattr(engine.state, _DONE, count)


def carry(engine: Engine, name: str, thing: Any) -> None:
    """Have the state of a handler stored within an epoch, and restored behind the epoch's start.

    Args:
        engine: the trainer.
        name: what it is called in the file.
        thing: with ``state_dict`` of tensors and plain values, and ``load_state_dict``; each process has its own.
    """
    carried(engine)[name] = thing


def carried(engine: Engine) -> dict[str, Any]:
    """What is stored so, by name."""
    if not hasattr(engine.state, _CARRIED):
        setattr(engine.state, _CARRIED, {})
    found: dict[str, Any] = getattr(engine.state, _CARRIED)
    return found
