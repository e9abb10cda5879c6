"""The verbs of an engine and the steps inside one, on a linear model of 30 features."""

import numpy as np


def test_program_row_of_30(benchmark, program, record):
    assert benchmark(program.row, record).shape == (30,)


def test_model_predict_one_row(benchmark, linear, row):
    assert benchmark(linear.predict, row[None]).shape == (1,)


def test_predict_array_inline(benchmark, inline, row):
    assert benchmark(inline.predict, row).source == "primary"


def test_predict_list_inline(benchmark, inline, row):
    assert benchmark(inline.predict, row.tolist()).source == "primary"


def test_predict_many_1024_rows_inline(benchmark, inline, row):
    rows = np.tile(row, (1024, 1))
    assert len(benchmark(inline.predict_many, rows)) == 1024


def test_predict_expired_answers_with_the_default(benchmark, inline, row):
    assert benchmark(inline.predict, row, deadline_ms=0).source == "default"


def test_swap(benchmark, inline, linear):
    benchmark(inline.swap, linear)
    assert inline.version == linear.digest[:12]


def test_stats(benchmark, inline, row):
    inline.predict(row)
    assert benchmark(inline.stats)
