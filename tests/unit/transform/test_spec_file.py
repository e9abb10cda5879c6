"""Specs as files: JSON and YAML mean what the Python form means, and hostile files are refused by line."""

import json
import sys

import pytest

from engine import transform as t
from engine.errors import MissingDependencyError, ProgramError

TABLE = {"x": [1.0, None, 3.0], "c": ["a", "no", None], "label": [0, 1, 0]}
SPEC = [
    t.number("x").impute("median").standardise(),
    t.category("c").one_hot(["a", "no"]),
    t.ratio(t.number("x"), t.number("x").clip(low=1.0), when_zero=0.5).named("share"),
    t.category("c").target("label").named("mean"),
]
YAML = """\
# The features of a spec with the delays.
- type: number
  input: x
  ops:
    - {op: impute, strategy: median}
    - standardise
- {type: category, input: c, ops: [{op: one_hot, categories: [a, "no"]}]}
- type: ratio
  of: [{type: number, input: x}, {type: number, input: x, ops: [{op: clip, low: 1.0}]}]
  when_zero: 0.5
  name: share
- {type: category, input: c, ops: [{op: target, label: label}], name: mean}
"""


@pytest.fixture
def write(tmp_path):
    def written(text, name="spec.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return written


@pytest.mark.parametrize("name", ["spec.json", "spec.yaml", "spec.yml"])
def test_a_file_means_what_the_python_form_means(name, write):
    text = json.dumps([feature.to_json() for feature in SPEC]) if name == "spec.json" else YAML
    path = write(text, name)
    assert t.load_spec(path) == SPEC
    expected = t.FeatureProgram.fit(SPEC, TABLE)
    assert t.FeatureProgram.fit(str(path), TABLE).digest == expected.digest
    assert t.FeatureProgram.fit_batch(path, TABLE, folds=2)[0].digest == expected.digest


def test_json_written_by_to_json_is_yaml_as_well(write):
    assert t.load_spec(write(json.dumps([feature.to_json() for feature in SPEC]))) == SPEC


BOMB = "- &a [x, x, x]\n- &b [*a, *a, *a]\n- [*b, *b, *b]\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- !!python/object/apply:os.system ['true']", "line 1: expected plain values, got the tag"),
        ("- {type: number, input: x}\n- !thing {}", "line 2: expected plain values, got the tag '!thing'"),
        ("- {type: number, input: !!binary eA==}", "line 1: .* got the tag 'tag:yaml.org,2002:binary'"),
        (BOMB, "line 1: expected plain values, got the anchor or alias 'a'; write it out"),
        ("- *a", "line 1: expected plain values, got the anchor or alias 'a'"),
        ("[" * 10_000, "line 1: expected at most 64 levels of nesting"),
        ("- {type: number,\n   input: x,\n   input: y}", "line 3: the key 'input' is given twice"),
        ("- {type: number, 5: x}", "line 1: expected a key that is text, got 5"),
        ("- {type: number, <<: {input: x}}", "line 1: expected text, a number, .* got the merge '<<'"),
        ("- {? [a] : x}", "line 1: expected a key that is text, got \\['a'\\]"),
        ("- {type: category, input: 2024-01-01}", "got the timestamp '2024-01-01'; put it in quotes"),
        (
            "- {type: number, input: x}\n- {type: numbre}",
            "line 2: unknown feature type 'numbre'; expected one of",
        ),
        (
            "- {type: number, input: x}\n\n- {type: number, input: x, ops: [stndrd]}",
            "line 3: unknown op 'stndrd'",
        ),
        (
            "- {type: category, input: c, ops: [{op: one_hot, categories: [no]}]}",
            "line 1: .*expected strings, got Fal",
        ),
        (
            "- {type: number, input: x, ops: [{op: clip, low: .nan}]}",
            "line 1: .*clip low must be a finite number, got nan",
        ),
        ("- {type: number", "line 1: expected YAML: "),
        ("- a\n\t- b", "line 2: expected YAML: "),
        ("a: 1", "line 1: expected a list of features"),
        ("", "line 1: expected a list of features"),
        ("- a\n---\n- b", "line 2: expected YAML: but found another document"),
        (b"- \xff\xfe", "expected UTF-8"),
        ("- \0", "expected YAML"),
        ("- just text", "line 1: expected a feature as an object, got 'just text'"),
    ],
)
def test_yaml_that_is_no_spec_is_refused_by_line(text, words, write):
    with pytest.raises(ProgramError, match=rf"spec\.yaml[,:] .*{words}"):
        t.load_spec(write(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"type": "number", "input": "x", "input": "y"}]', "the key 'input' is given twice"),
        ('[{"type": "number", "input": "x", "ops": [{"op": "clip", "low": NaN}]}]', "finite number, got NaN"),
        ('[\n{"type": }]', "line 2: expected JSON"),
        ('{"type": "number"}', "line 1: expected a list of features, got an object"),
        ('[{"type": "number", "input": "x"}, 5]', "feature 1: expected a feature as an object, got 5"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_json_that_is_no_spec_is_refused(text, words, write):
    with pytest.raises(ProgramError, match=rf"spec\.json[,:] .*{words}"):
        t.load_spec(write(text, "spec.json"))


def test_files_of_other_kinds_and_sizes_are_refused(write):
    with pytest.raises(ProgramError, match=r"expected a spec as \.json, \.yaml or \.yml, got '\.toml'"):
        t.load_spec(write("", "spec.toml"))
    with pytest.raises(ProgramError, match="expected a spec of at most 4194304 bytes, got 4194305"):
        t.load_spec(write(b"#" * ((4 << 20) + 1)))
    with pytest.raises(FileNotFoundError):
        t.load_spec("nowhere.yaml")


def test_yaml_without_pyyaml_says_how_to_get_it(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingDependencyError, match=r"deadline-engine\[yaml\]"):
        t.load_spec(write(YAML))
