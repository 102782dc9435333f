"""Every error that a user can meet is a ParityError, so that one `except` catches them all."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from caffe_parity import caffe
from caffe_parity.contract import ParityError


def test_errors_of_caffe_have_one_root() -> None:
    """Whatever class of error a module of caffe_parity.caffe has, and is not for itself alone."""
    found = set()
    for module in pkgutil.iter_modules(caffe.__path__, f"{caffe.__name__}."):
        for name, thing in inspect.getmembers(importlib.import_module(module.name)):
            if inspect.isclass(thing) and issubclass(thing, Exception) and name[0] != "_":
                found.add(thing)
    assert {
        "CaffeCrash",
        "CompileError",
        "DriverError",
        "InstallError",
        "NoCaffe",
        "PackError",
    } <= {each.__name__ for each in found}
    assert [each for each in found if not issubclass(each, ParityError)] == []
