"""Everything public is documented where people look: in `help()`, and in the stub that an editor shows.

Public are the names in `__all__` of the package and of each public room, and of every class among them each member
whose name has no underscore in front. A docstring that a member only inherits from outside the package is not its own.
"""

import ast
import importlib
import inspect
import re
import types
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
ROOMS = [
    "engine",
    "engine.errors",
    "engine.transform",
    "engine.feature_store",
    "engine.registry",
    "engine.monitor",
    "engine.rollout",
    "engine.cache",
    "engine.training",
    "engine.scoring",
    "engine.simulation",
    "engine.loadgen",
    "engine.testing",
    "engine.model",
    "engine.serving",
]
FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodDescriptorType)
# `cdef readonly` fields of a compiled class, which can have no docstring.
FIELDS = (types.GetSetDescriptorType, types.MemberDescriptorType)


def is_function(value):
    # Cython's functions have a type of their own.
    return isinstance(value, FUNCTIONS) or type(value).__name__ == "cython_function_or_method"


def is_member(value):
    return is_function(value) or isinstance(value, (property, classmethod, staticmethod, *FIELDS))


def is_ours(value):
    return str(getattr(value, "__module__", "")).split(".")[0] == "engine"


def public():
    """Each public class and function once, by the path that it is found under first."""
    seen = {}
    for room in ROOMS:
        module = importlib.import_module(room)
        named = getattr(module, "__all__", None)
        for name in named or [name for name in vars(module) if not name.startswith("_")]:
            value = getattr(module, name)
            if is_ours(value) and (inspect.isclass(value) or is_function(value)):
                seen.setdefault(id(value), (f"{room}.{name}", value))
    return list(seen.values())


def members(kind):
    """The public members of a class, those of its bases in the package included: (name, the class it is of, member)."""
    found = {}
    for owner in kind.__mro__:
        if is_ours(owner):
            for name, member in vars(owner).items():
                if not name.startswith("_") and is_member(member):
                    found.setdefault(name, (owner, member))
    # The fields of a dataclass are described by its class.
    fields = getattr(kind, "__dataclass_fields__", {})
    return [(name, owner, member) for name, (owner, member) in found.items() if name not in fields]


def text_of(value):
    inner = getattr(value, "__func__", value)
    return inspect.cleandoc(getattr(inner, "__doc__", None) or "")


def is_documented(name, owner, member):
    if text_of(member):
        return True
    # In the words of its class: "name: …" or "name, other: …" on a line of Attributes.
    line = rf"(?m)^\s*(\w+, )*{name}(, \w+)*(:| \()"
    return isinstance(member, FIELDS) and re.search(line, text_of(owner)) is not None


PUBLIC = public()
CLASSES = [(path, value) for path, value in PUBLIC if inspect.isclass(value)]


def ids(cases):
    return [path for path, *_ in cases]


def test_the_walk_finds_what_is_public():
    found = dict(PUBLIC)
    assert {"engine.Engine", "engine.Answer", "engine.simulate", "engine.registry.Bundle"} <= found.keys()
    names = {name for name, *_ in members(found["engine.Engine"])}
    # Members of the class, of its compiled base, and of the base's base.
    assert {"swap", "predict", "predict_async", "predict_many", "lane"} <= names


@pytest.mark.parametrize(("path", "value"), PUBLIC, ids=ids(PUBLIC))
def test_it_is_documented(path, value):
    assert text_of(value), f"{path} has no docstring"
    # A dataclass without a docstring gets its signature for one.
    assert not text_of(value).startswith(f"{value.__name__}("), f"{path} has no docstring of its own"


@pytest.mark.parametrize(("path", "kind"), CLASSES, ids=ids(CLASSES))
def test_its_members_are_documented(path, kind):
    bare = [name for name, owner, member in members(kind) if not is_documented(name, owner, member)]
    assert not bare, f"{path}: no docstring at {', '.join(bare)}"


# --- stubs ---


def compiled():
    """The compiled classes and functions that a user meets: public ones, and bases of public ones."""
    met = {id(value): value for _, value in PUBLIC}
    for _, kind in CLASSES:
        met |= {id(base): base for base in kind.__mro__}
    for value in met.values():
        if is_ours(value) and stub_of(value.__module__).with_suffix(".pyx").exists():
            yield f"{value.__module__}.{value.__name__}", value


def stub_of(module):
    return SOURCE.joinpath(*module.split(".")).with_suffix(".pyi")


COMPILED = list(compiled())


@pytest.mark.parametrize(("path", "value"), COMPILED, ids=ids(COMPILED))
def test_its_stub_says_the_same(path, value):
    stub = ast.parse(stub_of(value.__module__).read_text())
    nodes = {node.name: node for node in stub.body if hasattr(node, "name")}
    assert value.__name__ in nodes or value.__name__.startswith("_"), f"the stub does not name {path}"
    expected = {path: text_of(value)}
    found = (
        {path: ast.get_docstring(nodes[value.__name__]) or ""}
        if value.__name__ in nodes
        else {path: text_of(value)}
    )
    if inspect.isclass(value):
        inside = {
            node.name: node
            for node in getattr(nodes.get(value.__name__), "body", ())
            if hasattr(node, "name")
        }
        # Private bases are not in the stub; what they have stands in the class that is.
        for name, member in vars(value).items():
            if name.startswith("_") or not is_member(member) or name not in inside:
                continue
            # A field has no docstring at run time; the stub may describe it.
            if text_of(member) or not isinstance(member, FIELDS):
                expected[f"{path}.{name}"] = text_of(member)
                found[f"{path}.{name}"] = ast.get_docstring(inside[name]) or ""
    other = sorted(name for name in expected if expected[name] != found[name])
    assert not other, f"the stub says something else, or nothing, at {', '.join(other)}"
