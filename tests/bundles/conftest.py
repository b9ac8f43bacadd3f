"""What a bundle's run changes in this process is put back."""

import logging
import signal
import sys
from contextlib import contextmanager

import pytest
import torch


@contextmanager
def same_hooks():
    """A bundle's ``initialize`` shortens what the program says when it ends, by an error or a signal."""
    hook, factory = sys.excepthook, logging.getLogRecordFactory()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    sys.excepthook = hook
    logging.setLogRecordFactory(factory)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def keep_the_hooks():
    with same_hooks():
        yield


@pytest.fixture(autouse=True, scope="module")
def keep_the_hooks_from_what_a_module_trains():
    with same_hooks():
        yield


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums in the order of the processes that the tests start."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
