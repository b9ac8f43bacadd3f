from __future__ import annotations

import logging
import signal
import sys

import pytest
import torch
from torch import nn

from monai_kd._signals import STOPPING
from monai_kd.distiller import DistillationTerm, Distiller
from monai_kd.errors import readable_errors, root_cause, user_message
from monai_kd.handlers.distillation import _take
from monai_kd.losses import SoftTargetLoss
from monai_kd.teachers import FrozenTeacher


def ours():
    FrozenTeacher("no network")


def caught(function):
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def framework(cause):
    """What a configuration parser does: raise something of its own from the cause."""

    def run():
        try:
            cause()
        except Exception as error:
            raise RuntimeError("failed to instantiate component") from error

    return run


def test_an_error_of_this_package_is_the_message():
    assert user_message(caught(ours)) == "the teacher's network must be a torch.nn.Module, got str."


def test_it_is_found_below_the_errors_of_a_framework():
    assert user_message(caught(framework(framework(ours)))) == user_message(caught(ours))


def test_the_root_cause_is_the_first_error():
    def missing():
        {}["typo"]

    assert root_cause(caught(framework(framework(missing)))) == "KeyError: 'typo'"


def test_of_two_of_ours_the_outer_one_says_more():
    def mismatch():
        term = DistillationTerm("soft", SoftTargetLoss())
        Distiller(nn.Linear(4, 2), FrozenTeacher(nn.Linear(4, 3)), [term], input_shape=(2, 4))

    message = user_message(caught(framework(mismatch)))
    assert message.startswith("term 'soft' does not fit: student ['output'] [(2, 2)], teacher ['output'] [(2, 3)]")
    assert "logits differ in shape" in message  # with what the loss said


def test_it_is_found_behind_an_error_raised_while_handling_it():
    def careless():
        try:
            ours()
        except TypeError:
            int("x")

    assert user_message(caught(careless)) == user_message(caught(ours))


def test_a_suppressed_cause_stays_suppressed():
    def silent():
        try:
            ours()
        except TypeError:
            raise RuntimeError("something else") from None

    assert user_message(caught(silent)) is None


@pytest.mark.parametrize("foreign", [lambda: int("x"), lambda: nn.Linear(2, 2)(torch.zeros(1, 3))])
def test_errors_from_elsewhere_are_not_ours(foreign):
    assert user_message(caught(foreign)) is None
    teacher = FrozenTeacher(nn.Linear(2, 2))
    assert user_message(caught(lambda: teacher({"image": torch.zeros(1, 3)}, ["output"]))) is None  # raised in torch


def test_a_key_error_is_shown_without_quotes():
    message = user_message(caught(lambda: _take({}, {"image"}, torch.device("cpu"))))
    assert message.startswith("distillation needs the batch keys ['image']")


@pytest.fixture
def hook(monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.delenv("MONAI_KD_TRACEBACK", raising=False)

    def show(function):
        error = caught(function)
        sys.excepthook(type(error), error, error.__traceback__)

    factory = logging.getLogRecordFactory()
    handlers = {number: signal.getsignal(number) for number in STOPPING}
    yield show
    logging.setLogRecordFactory(factory)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_our_errors_end_a_program_with_their_message_alone(hook, capsys):
    readable_errors()
    hook(framework(ours))
    shown = capsys.readouterr().err
    assert shown.splitlines()[0] == "error: the teacher's network must be a torch.nn.Module, got str."
    assert "MONAI_KD_TRACEBACK=1" in shown
    assert "Traceback" not in shown


def test_other_errors_keep_their_traceback(hook, capsys):
    readable_errors()
    hook(lambda: int("x"))
    assert "Traceback" in capsys.readouterr().err


def test_logged_errors_of_ours_have_no_traceback_and_others_do(hook, caplog):
    """An engine's handlers log an exception before it ends the program."""
    readable_errors()
    for function in (framework(ours), lambda: int("x")):
        logging.getLogger("engine").exception("stopped", exc_info=caught(function))
    assert [record.exc_info is None for record in caplog.records] == [True, False]


def test_a_server_that_logs_an_exception_says_what_it_was(hook, caplog):
    """A web server logs "Exception in ..." and goes on: the message must not go with the traceback."""
    readable_errors()
    logging.getLogger("server").error("Exception in application\n", exc_info=caught(framework(ours)))
    logging.getLogger("engine").error("stopped: 100 % of it", exc_info=caught(ours))
    said = "the teacher's network must be a torch.nn.Module, got str."
    assert caplog.messages == [f"Exception in application: {said}", f"stopped: 100 % of it: {said}"]


def test_the_environment_keeps_all_tracebacks(hook, capsys, monkeypatch):
    monkeypatch.setenv("MONAI_KD_TRACEBACK", "1")
    readable_errors()
    hook(ours)
    assert "Traceback" in capsys.readouterr().err


# --- errors of others that are known ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("DataLoader worker (pid 12) is killed by signal: Killed. ", "Killed. A process that loads data was ended"),
        (
            "DataLoader worker (pid 12) is killed by signal: Bus error. It is possible",
            "Bus error. A process that loads",
        ),
        ("DataLoader worker (pid(s) 1, 2) exited unexpectedly", "exited unexpectedly. A process that loads data was"),
        ("[enforce fail at inline_container.cc:672] . unexpected pos 768 vs 662", "662. A file could not be written"),
    ],
)
def test_what_ended_a_program_from_outside_is_explained(message, said):
    def fail():
        raise RuntimeError(message)

    assert said in user_message(caught(framework(fail)))


@pytest.mark.parametrize(
    "message", ["Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback", "sizes must match"]
)
def test_what_went_wrong_in_the_program_keeps_its_traceback(message):
    def fail():
        raise RuntimeError(message)

    assert user_message(caught(fail)) is None


# --- signals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_program_in_one_line(number, status, hook, capfd):
    readable_errors()
    with pytest.raises(SystemExit) as stopped:
        signal.raise_signal(number)
    assert stopped.value.code == status
    assert capfd.readouterr().err.strip() == f"stopped by {number.name}"


def test_a_stop_is_logged_without_its_traceback(hook, caplog):
    readable_errors()
    for error in (SystemExit(143), KeyboardInterrupt()):
        logging.getLogger("engine").error("Exception: ", exc_info=error)
    assert caplog.messages == ["stopped"] * 2
    assert [record.exc_info for record in caplog.records] == [None, None]


def test_signals_that_somebody_handles_are_left_alone(hook):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    readable_errors()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) != signal.default_int_handler
