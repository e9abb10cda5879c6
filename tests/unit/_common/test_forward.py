"""Former modules of a package that keeps its name: the same objects, and a warning that names the new path."""

import sys
import types
import warnings

import pytest

from engine._common import renamed


@pytest.fixture
def package(monkeypatch):
    made = types.ModuleType("engine_forward_test")
    monkeypatch.setitem(sys.modules, made.__name__, made)
    renamed.forward(made.__name__, {"old": "engine._common.canonical"})
    yield made
    sys.modules.pop("engine_forward_test.old")


def test_a_name_of_a_former_module_is_that_of_the_present_one_and_warns(package):
    from engine._common import canonical

    with pytest.warns(DeprecationWarning, match="import engine._common.canonical"):
        assert package.old.digest is canonical.digest


def test_a_former_module_is_imported_in_silence_until_it_is_used(package):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        import engine_forward_test.old as old

        assert old.__doc__ is None
        assert not hasattr(old, "__wrapped__")


def test_a_name_that_the_present_module_lacks_is_an_attribute_error(package):
    with (
        pytest.warns(DeprecationWarning, match="canonical"),
        pytest.raises(AttributeError, match="no_such_name"),
    ):
        _ = package.old.no_such_name
