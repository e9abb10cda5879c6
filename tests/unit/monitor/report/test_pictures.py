import re
from xml.etree import ElementTree

import numpy as np
import pytest

from engine.monitor.drift.fitting import fit_column
from engine.monitor.report import pictures


def column_of(values, **options):
    return fit_column("x", np.asarray(values, dtype=np.float32), categorical=False, **options)


def drawn(column, now, **figures):
    """Return the picture's HTML, and the shapes of the reference and of now as (attribute) lists."""
    with np.errstate(over="ignore"):
        index = column.bins.index(np.asarray(now, dtype=np.float32))
    counts = np.bincount(index[index >= 0], minlength=column.bins.n_bins).astype(float)
    made = pictures.column_picture(column, counts, figures)
    shapes = [
        element
        for svg in re.findall(r"<svg.*?</svg>", made)
        for element in re.findall(r"<(?:rect|path) [^>]*>", svg)
    ]
    return made, [s for s in shapes if "class=ref" in s], [s for s in shapes if "class=now" in s]


rng = np.random.default_rng(0)
KINDS = {
    "normal": rng.normal(size=3000),
    "few distinct": rng.integers(0, 4, 3000) * 15.0,
    "twenty distinct": rng.integers(0, 20, 3000) * 5.0,
    "mostly zero": np.where(rng.random(3000) < 0.95, 0.0, rng.exponential(size=3000)),
    "heavy tails": rng.standard_cauchy(3000),
    "constant": np.full(3000, 7.0),
    "two values": rng.integers(0, 2, 3000) * 1.0,
    "codes": rng.integers(0, 5, 3000) * 1.0,
    "ids": rng.integers(0, 1 << 20, 3000) * 1.0,
    "huge": rng.normal(size=3000) * 1e37,
    "tiny": rng.normal(size=3000) * 1e-30,
}


@pytest.mark.parametrize("kind", KINDS)
def test_no_picture_is_blank(kind):
    values = KINDS[kind]
    for now in (values[:500], values[:500] * 1000.0):
        made, reference, current = drawn(column_of(values), now)
        heights = [
            float(found) for shape in reference for found in re.findall(r'(?:width|height)="([\d.]+)"', shape)
        ]
        assert reference
        assert current
        assert max(heights[0::2]) > 5
        assert max(heights[1::2]) > 5
        assert "nan" not in made
        assert "inf" not in made


def test_few_distinct_numbers_are_bars_by_value():
    made, reference, current = drawn(column_of(np.repeat([0.0, 15.0, 30.0], 100)), [15.0] * 30 + [30.0] * 10)
    assert "<li>0</li><li>15</li><li>30</li>" in made
    assert "33.3% → <b>75%</b>" in made
    assert len(reference) == len(current) == 3
    assert [re.search(r'width="([\d.]+)"', shape)[1] for shape in current] == ["0", "1000", "333.3"]


def test_a_value_between_goes_to_the_nearest():
    made, _, _ = drawn(column_of(np.repeat([0.0, 15.0, 30.0], 100)), [16.0] * 10 + [500.0] * 10)
    # 16 is in the bin that ends at 30, and 500 in the one beyond it.
    assert "33.3% → <b>0%</b></li><li>33.3% → <b>0%</b></li><li>33.3% → <b>100%</b>" in made


def test_categories_have_names_and_the_rare_ones_are_together():
    levels = tuple(f"<c{k}>" for k in range(12))
    column = fit_column("x", np.repeat(np.arange(12), 30).astype(np.float32), categorical=True, levels=levels)
    made, reference, current = drawn(column, np.full(40, 11), unseen_share=0.25, missing_share=0.5)
    assert "&lt;c11&gt;" in made
    assert "<c1" not in made
    assert "5 others" in made
    assert "<li>8.33% → <b>75%</b></li>" in made
    assert "new ones" in made
    assert "0% → <b>25%</b>" in made
    assert "0% → <b>50%</b>" in made  # missing
    assert len(reference) == 10  # seven, the others, new ones, missing
    assert len(current) == 10


def test_a_column_without_values_says_so():
    made, _, _ = drawn(column_of(np.full(200, np.nan)), [np.nan], missing_share=1.0)
    assert "The reference has no value" in made
    assert "100% → <b>100%</b>" in made
    made, reference, current = drawn(column_of(KINDS["normal"]), [np.nan], missing_share=1.0)
    assert "No value now." in made
    assert 'd=""' in current[0]
    assert len(reference) > 20


def test_the_range_holds_both_and_not_the_utmost_tails():
    values = np.concatenate([rng.normal(size=3000), [1e9]])
    made, _, _ = drawn(column_of(values), rng.normal(size=500))
    low, high = (
        float(end) for end in re.findall(r"<p class=ends><span>(.*?)</span><span>(.*?)</span>", made)[0]
    )
    assert -4 < low < -2
    assert 2 < high < 4


def test_every_picture_is_well_formed_xml_once_its_attributes_are_quoted():
    made, _, _ = drawn(column_of(KINDS["normal"]), KINDS["normal"][:100])
    svg = re.sub(r"=([a-zA-Z-]+)(?=[ />])", r'="\1"', re.search(r"<svg.*</svg>", made)[0])
    assert ElementTree.fromstring(svg).tag == "svg"


@pytest.mark.parametrize(
    ("first", "last", "names"),
    [
        (0.0, 3600.0, ["00:00", "00:15", "00:30", "00:45"]),
        (0.0, 10.0, ["00:00:00", "00:00:05"]),
        (0.0, 20 * 86400.0, ["Jan 01", "Jan 08", "Jan 15"]),
        (30.0, 30.0, []),
    ],
)
def test_times_have_few_round_names(first, last, names):
    assert [name for _, name in pictures.time_ticks(first, last)] == names


def test_history_is_stacked_by_source():
    slices = [[0.0, 10.0, 80.0, 20.0, 0.0, 5.0], [10.0, 20.0, 100.0, 0.0, 0.0, 0.0]]
    made = pictures.over_time(slices, [(10.0, "swap"), (99.0, "alarm")])
    assert "primary 180, fallback 20, default 0" in made
    assert '<path class="s primary" d="M0 100L0 20H500L500 0H1000L1000 100H500L500 100H0Z"/>' in made
    assert 'class="swap" d="M500 0V100"' in made
    assert 'class="alarm"' not in made
    assert "10 a second" in made


def test_reasons_beyond_five_are_together():
    names = ["timeout", "full", "shed", "late", "stalled", "expired", "no_time"]
    slices = [[0.0, 10.0, 100.0, 0.0, 0.0, 0.0]]
    made, shown = pictures.reasons_over_time(
        slices, [{"ok": 10, **{name: 9 - k for k, name in enumerate(names)}}], []
    )
    assert shown == ["timeout", "full", "shed", "late", "others"]
    assert "42%" in made
    assert pictures.reasons_over_time(slices, [{"ok": 10}], []) == ("", [])


def test_late_answers_are_right_of_the_deadline():
    shares = [0] * 40
    shares[10], shares[20], shares[39] = 1000, 1, 2
    made = pictures.deadline_picture(shares)
    assert "1,000 answers within their deadline, 3 after it" in made
    assert len(re.findall("class=late", made)) == 2
