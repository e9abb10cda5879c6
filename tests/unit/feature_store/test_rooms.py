"""The rooms inside the feature store: former module paths are forwarded, and imports go one way."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import engine.feature_store

FORMER = {
    "lmdb_online.LMDBOnline": "online.lmdb",
    "redis_online.RedisOnline": "online.redis",
    "redis_wire.RedisWire": "online.redis_wire",
    "redis_address.Address": "online.redis_address",
    "online_features.OnlineFeatures": "online.features",
    "point_in_time.join": "offline.point_in_time",
    "sources.take": "offline.sources",
    "view_rows.plain_rows": "offline.view_rows",
    "aggregates.aggregated_rows": "offline.aggregates",
}


@pytest.mark.parametrize("old", FORMER)
def test_a_former_path_gives_the_same_object_and_warns(old):
    module, name = old.split(".")
    code = (
        "import warnings\n"
        "import engine.feature_store\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        f"    from engine.feature_store.{module} import {name} as old\n"
        f"from engine.feature_store.{FORMER[old]} import {name} as new\n"
        "assert old is new\n"
        f"assert any('engine.feature_store.{FORMER[old]}' in str(each.message) for each in seen), seen\n"
        "assert all(each.filename == '<string>' for each in seen), seen\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_names_of_the_packages_are_where_they_were():
    code = (
        "import warnings; warnings.simplefilter('error')\n"
        "from engine.feature_store.offline import DuckDBOffline, Features, OfflineStore, View, time_range\n"
        "from engine.feature_store.online import OnlineStore, Unavailable, Wire, Written\n"
        "from engine.feature_store import *\n"
        "import engine.feature_store.sources\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_the_duckdb_store_knows_duckdb():
    """By text: these modules, and no others, may import it or hold SQL."""
    folder = Path(engine.feature_store.__file__).parent
    found = {path.name for path in folder.rglob("*.py") if "SELECT" in path.read_text()}
    duckdb = {"duckdb.py", "point_in_time.py", "view_rows.py", "aggregates.py"}
    assert found <= duckdb | {"redis_address.py", "postgres.py", "sql.py", "bigquery.py"}
    users = {path.name for path in folder.rglob("*.py") if "import duckdb" in path.read_text()}
    assert users == {"duckdb.py"}


def imports_of(path):
    """The modules that a module imports, at whatever place in it, a package's `__init__` as the package."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_no_module_imports_itself_by_way_of_others():
    folder = Path(engine.feature_store.__file__).parent
    modules = {
        ".".join(["engine", "feature_store", *path.relative_to(folder).with_suffix("").parts]): path
        for path in folder.rglob("*.py")
        if path.name != "__init__.py"
    }
    graph = {name: set(imports_of(path)) & set(modules) for name, path in modules.items()}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(modules)
