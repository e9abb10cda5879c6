"""The page of a program names every output, input and op, and nothing in a name is markup."""

from xml.etree import ElementTree

from engine import transform as t


def test_a_program_as_html():
    x, c = t.number("<x>"), t.category("c & d")
    spec = [
        t.ratio(x.impute(0.5), t.number("y"), when_zero=1.0).clip(0, 9).named("share"),
        c.one_hot([f"k{i}" for i in range(50)]),
        t.vector("v", 2)[1].named("v1"),
    ]
    program = t.FeatureProgram.fit(spec, {"<x>": [1.0], "y": [1.0], "c & d": ["a"], "v": [[1, 2]]})
    assert program._repr_html_() == program.to_html()
    page = ElementTree.fromstring(program.to_html())
    cells = [["".join(cell.itertext()) for cell in row] for row in page.findall("tbody/tr")]
    assert cells[0] == [
        "share",
        "<x>y",
        "ratio(number(<x>) → impute(strategy=constant, value=0.5), number(y), when_zero=1.0) → clip(low=0.0, high=9.0)",
    ]
    assert cells[1][0].endswith("… 50 in all")
    assert cells[1][2].startswith("category(c & d) → one_hot(categories=['k0', 'k1'")
    assert cells[1][2].endswith("…)")
    assert cells[2] == ["v1", "v", "vector(v, size=2, index=1)"]
    assert program.digest[:12] in page.findtext("caption")
