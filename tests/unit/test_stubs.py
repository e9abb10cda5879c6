"""The stub beside each compiled module names what the module has, and nothing that it has not."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
MODULES = sorted(".".join(path.relative_to(SOURCE).with_suffix("").parts) for path in SOURCE.rglob("*.pyx"))


def stub_path(name):
    return SOURCE.joinpath(*name.split(".")).with_suffix(".pyi")


def stub(name):
    return ast.parse(stub_path(name).read_text())


def typing_only(node):
    """A name that is there for the checker alone: a TypedDict, a Protocol, or an alias of a type."""
    if isinstance(node, ast.ClassDef):
        return any(getattr(base, "id", "") in ("TypedDict", "Protocol") for base in node.bases)
    return isinstance(node, ast.Assign)


def stub_names(body):
    names = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.target.id] = node
        elif isinstance(node, ast.Assign):
            names |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("name", MODULES)
def test_every_compiled_module_has_a_stub(name):
    assert stub_path(name).exists()


@pytest.mark.parametrize("name", MODULES)
def test_a_stub_names_only_what_is_there(name):
    module = importlib.import_module(name)
    for item, node in stub_names(stub(name).body).items():
        if typing_only(node):
            continue
        assert hasattr(module, item), f"{name}.pyi names {item}, which the module does not have"
        if isinstance(node, ast.ClassDef):
            kind = getattr(module, item)
            missing = [member for member in stub_names(node.body) if not hasattr(kind, member)]
            # Attributes that __init__ sets belong to instances; only methods and properties can be looked up.
            missing = [
                member for member in missing if not isinstance(stub_names(node.body)[member], ast.AnnAssign)
            ]
            assert not missing, f"{name}.pyi: {item} has no {missing}"


@pytest.mark.parametrize("name", MODULES)
def test_a_stub_names_everything_public(name):
    module = importlib.import_module(name)
    named = stub_names(stub(name).body)
    for item, value in vars(module).items():
        if item.startswith("_") or inspect.ismodule(value):
            continue
        if getattr(value, "__module__", None) != module.__name__ and not isinstance(value, tuple):
            continue
        assert item in named, f"{name}.pyi does not name {item}"
