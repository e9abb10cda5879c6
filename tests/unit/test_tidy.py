"""No file that nothing uses, no room without its tests, no line over the limit, no retired word in a name."""

import ast
import io
import itertools
import re
import tokenize
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE, CORE = ROOT / "src" / "engine", ROOT / "csrc"
PYTHON = {".py", ".pyi"}
CYTHON = {".pyx", ".pxd", ".pxi"}
CPP = {".cpp", ".hpp", ".h", ".inc", ".cu", ".cuh"}
LINE_MAX = 120
# Former names of rooms, which have no code of their own.
FORMER = {"batch", "planning", "service"}


def files(*kinds, under=("src", "csrc", "tests", "benchmarks", ".ci")):
    """Source files of these suffixes, those of hidden folders and caches left out."""
    for folder in under:
        for path in sorted((ROOT / folder).rglob("*")):
            parts = path.relative_to(ROOT / folder).parts
            hidden = any(part.startswith(".") or part == "__pycache__" for part in parts)
            if path.suffix in kinds and path.is_file() and not hidden:
                yield path


def named(path):
    return str(path.relative_to(ROOT))


# --- no file that nothing uses ---


def dotted(path):
    parts = [*path.relative_to(ROOT / "src").with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names():
    """Every dotted name that a module of the package, a benchmark, a test or a page imports or names."""
    found = set()
    for path in files(*PYTHON, *CYTHON):
        text = path.read_text()
        own = dotted(path) if path.is_relative_to(ROOT / "src") else None
        names = set(re.findall(r"\bengine(?:\.\w+)+", text))
        for package, what in re.findall(r"\bfrom\s+(engine(?:\.\w+)*)\s+c?import\s+(\([^)]*\)|[^\n]*)", text):
            names |= {f"{package}.{name}" for name in re.findall(r"\w+", what)}
        found |= {name for name in names if own is None or name != own}
    for path in (ROOT / "pyproject.toml", ROOT / "CONTRIBUTING.md", ROOT / "README.md"):
        found |= set(re.findall(r"\bengine(?:\.\w+)+", path.read_text()))
    return found


def test_every_module_is_imported_somewhere():
    used = imported_names()
    # A name below a module, `engine.errors.EngineError`, is a use of the module.
    used |= {
        ".".join(parts[:n]) for name in used for parts in [name.split(".")] for n in range(1, len(parts))
    }
    unused = [
        named(path)
        for path in files(".py", ".pyx", ".pxd", ".pxi", under=("src",))
        if path.name not in ("__init__.py", "__main__.py")
        and dotted(path) not in used
        and not (path.suffix == ".pxi" and any(path.name in other.read_text() for other in files(".pyx")))
    ]
    assert not unused


def test_every_header_is_included_somewhere():
    included = set()
    for path in files(*CPP, *CYTHON):
        for name in re.findall(r'(?:#\s*include|cdef extern from)\s*["<]([^">]+)[">]', path.read_text()):
            included |= {name, str((path.parent / name).resolve())}
    unused = [
        named(path)
        for path in files(".hpp", ".h", ".inc", ".cuh", under=("csrc",))
        if not {str(path.relative_to(CORE)), str(path), str(path).partition("/include/")[2]} & included
    ]
    assert not unused


def test_every_helper_of_tests_and_benchmarks_is_imported_somewhere():
    texts = {path: path.read_text() for path in files(".py", under=("tests", "benchmarks", ".ci"))}
    texts[ROOT / "CONTRIBUTING.md"] = (ROOT / "CONTRIBUTING.md").read_text()
    run_by_others = ("test_", "bench_", "conftest", "__", "public_face", "check", "lint")
    unused = [
        named(path)
        for path in texts
        if path.suffix == ".py"
        and not path.stem.startswith(run_by_others)
        and not any(re.search(rf"\b{path.stem}\b", text) for other, text in texts.items() if other != path)
    ]
    assert not unused


def test_every_fixture_is_read_by_a_test():
    tests = "\n".join(path.read_text() for path in files(".py", under=("tests",)))
    unused = [
        entry.name
        for entry in (ROOT / "tests" / "fixtures").iterdir()
        if not entry.name.startswith("__") and entry.stem not in tests and entry.name not in tests
    ]
    assert not unused


def test_every_fuzz_target_has_a_corpus_and_every_corpus_a_target():
    fuzz = CORE / "fuzz"
    targets = {(path.parent.name, path.stem.removeprefix("fuzz_")) for path in fuzz.glob("*/fuzz_*.cpp")}
    corpora = {
        (path.parent.parent.name, path.name) for path in fuzz.glob("*/corpus/*") if any(path.iterdir())
    }
    assert targets == corpora
    assert targets


# --- no room without its twin ---


def rooms(folder):
    return {
        path.name
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith("__") and any(path.rglob("*.*"))
    }


def test_every_room_has_its_tests_and_every_folder_of_tests_its_room():
    tested = {
        path.name
        for path in (ROOT / "tests" / "unit").iterdir()
        if path.is_dir() and any(path.rglob("test_*.py"))
    }
    built = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - FORMER
    assert built - tested == set()
    assert tested - built - {"benchmarks"} == set()


def test_every_room_of_the_core_has_its_tests():
    # The C ABI is checked by the rooms on either side of it.
    built = rooms(CORE) - {"include", "tests", "fuzz"}
    tested = {path.parent.name for path in (CORE / "tests").glob("*/test_*.cpp")}
    assert built == tested
    assert {path.name for path in (CORE / "fuzz").iterdir() if path.is_dir()} <= built


# --- no line over the limit ---


@pytest.mark.parametrize("kind", [*sorted(PYTHON | CYTHON | CPP), ".md"])
def test_no_line_is_too_long(kind):
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")] if kind == ".md" else files(kind)
    long = [
        f"{named(path)}:{number}"
        for path in pages
        if path.name != "benchmarks.md"  # rendered from docstrings and results
        for number, line in enumerate(path.read_text().splitlines(), 1)
        # A row of a table, or a link, cannot be broken.
        if len(line) > LINE_MAX and not (kind == ".md" and (line.lstrip().startswith("|") or "](" in line))
    ]
    assert not long


# --- no retired word in a name ---

# The field's noun stands in its place; docs/glossary.md has them.
RETIRED = {
    "asker": "caller",
    "guard": "safety margin",
    "rescuer": "fallback timer",
    "rescue": "fallback timer",
    "knock": "admission",
    "refusal": "rejection",
    "released": "dropped, shed",
    "standing": "rank",
    "turn": "dispatch",
    "forming": "batch plan",
    "visitor": "in-flight executor",
    "visited": "in-flight executor",
    "owed": "pending signal",
    "books": "metrics",
    "world": "environment",
    "audit": "invariant checker",
    "resident": "loaded version",
    "probation": "automatic rollback, bake time",
    "told": "published",
    "let_go": "drop",
    "go_live": "activate",
    "put_up": "publish",
}
# Words that have another meaning elsewhere, and the rooms where they had the retired one.
ONLY_IN = {
    "turn": ("scheduler", "simulator", "serving"),
    "standing": ("scheduler", "simulator", "serving"),
    "told": ("registry", "rollout"),
    "owed": ("scheduler", "simulator", "serving"),
}
# Names that users see stay, and so do names that are not ours.
STAYS = {
    "lock_guard": "of the standard library",
    "resident_kb": "a process's resident set, as the kernel calls it",
    "guard_us": "a key of stats()",
    "released": "a reason of answers, and the method of an old scorer",
    "Probation": "a public class",
    "probation": "an argument of engine.open, which takes a Probation",
    "_probation": "where that argument is kept",
    "on_probation": "a key of status()",
    "rescue": "the name of a lane in stats() and of a thread",
    "audit": "the registry's log, and the field's word for it",
    "AuditEntry": "what the registry's history gives",
}


def words_of(name):
    """The words of an identifier, in lower case."""
    parts = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+", name)
    return [part.lower() for part in parts]


def retired_in(name, rooms=()):
    """The retired word in an identifier of a file, whose path has these parts; None where there is none."""
    if name in STAYS:
        return None
    words = words_of(name)
    there = {*words, *(word.removesuffix("s") for word in words)}
    there |= {"_".join(pair) for pair in itertools.pairwise(words)}
    there -= {word for word, where in ONLY_IN.items() if not set(where) & set(rooms)}
    return next((word for word in RETIRED if word in there), None)


def identifiers(path):
    text = path.read_text()
    if path.suffix in PYTHON:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            # The name of a test is a sentence.
            if token.type == tokenize.NAME and not token.string.startswith("test_"):
                yield token.string
        return
    if path.suffix in CYTHON:
        text = re.sub(r'(?s)""".*?"""', '""', text)
        text = re.sub(r"\"(\\.|[^\"\\\n])*\"|'(\\.|[^'\\\n])*'", "''", text)
        text = re.sub(r"#[^\n]*", "", text)
    else:
        text = re.sub(r"(?s)/\*.*?\*/", "", text)
        text = re.sub(r'"(\\.|[^"\\\n])*"|//[^\n]*|\bTEST\(\w+\)', "", text)
    yield from re.findall(r"[A-Za-z_]\w*", text)


def retired_names(paths):
    found = Counter()
    for path in paths:
        for name in set(identifiers(path)):
            word = retired_in(name, path.parts)
            if word is not None:
                found[f"{named(path)}: {name} (write {RETIRED[word]})"] += 1
    return sorted(found)


@pytest.mark.parametrize("folder", ["src", "csrc", "tests", "benchmarks"])
def test_no_name_has_a_retired_word(folder):
    assert retired_names(files(*PYTHON, *CYTHON, *CPP, under=(folder,))) == []


@pytest.mark.parametrize(
    ("name", "word"),
    [("n_askers", "asker"), ("GuardTerms", "guard"), ("let_go_of", "let_go"), ("putUp", "put_up")],
)
def test_the_walk_knows_a_retired_word_in_any_spelling(name, word):
    assert retired_in(name) == word


def test_the_walk_reads_names_only(tmp_path):
    python, native = tmp_path / "a.py", tmp_path / "a.cpp"
    python.write_text('"""asker"""\n# asker\nname = "asker"\n')
    native.write_text('/* asker */ int name; // asker\nconst char* text = "asker";\n')
    assert set(identifiers(python)) == {"name"}
    assert set(identifiers(native)) == {"int", "name", "const", "char", "text"}
    assert retired_in("returned", ["scheduler"]) is None
    assert retired_in("turns", ["scheduler"]) == "turn"
    assert retired_in("turns", ["transform"]) is None
    assert retired_in("lock_guard") is None


def test_former_names_have_no_code_of_their_own():
    for room in FORMER:
        for path in (PACKAGE / room).glob("*.py"):
            kinds = {type(node) for node in ast.walk(ast.parse(path.read_text()))}
            assert ast.ClassDef not in kinds, path
