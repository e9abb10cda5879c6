from html.parser import HTMLParser

import numpy as np

from engine.monitor import ModelMonitor, Reference
from engine.monitor._sketch import SHADOW


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.links, self.texts = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        named = dict(attributes)
        self.links += [named[key] for key in ("src", "href", "xlink:href") if key in named]

    def handle_data(self, data):
        self.texts.append(data)


def test_the_page_shows_everything_and_links_to_nothing(tmp_path):
    rng = np.random.default_rng(0)
    table = {
        "temp": rng.normal(size=500),
        "carrier": rng.choice(["AA", "<UA>"], 500),
        "empty": np.full(500, np.nan),
    }
    made = Reference.fit(table, outputs=rng.random(500))
    with ModelMonitor(made, handlers=[], background=False) as monitor:
        for i in range(400):
            row = {"temp": rng.normal() + 3, "carrier": "AA"}
            source = ("primary", "fallback")[i % 2]
            answer = monitor.log_prediction(row, rng.random(), 2.0, deadline_ms=5, source=source, version="7")
            monitor.outcome(answer, i % 3 == 0, value=1.0 - i % 2)
        monitor._sketch.push(answer, values=np.array([0.5]), flags=SHADOW)
        monitor.counter("bookings").inc()
        path = monitor.report(tmp_path / "report.html")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    page = Page()
    page.feed(path.read_text())
    # An output, three inputs, sources and deadline.
    assert page.tags.count("svg") == 6
    assert all(link.startswith("#") for link in page.links)
    assert "script" not in page.tags
    text = " ".join(page.texts)
    for said in (
        "temp is no longer as in the reference",
        "fallback share",
        "bookings",
        "repeated",
        "worth 1 less",
    ):
        assert said in text, said
    assert "<ua>" not in path.read_text().lower().replace("&lt;ua&gt;", "")


def test_a_monitor_without_answers_reports_no_alerts(tmp_path):
    with ModelMonitor(background=False) as monitor:
        assert "None." in monitor.report(tmp_path / "empty.html").read_text()


def test_outcomes_of_every_kind_are_shown(tmp_path):
    outputs = np.array([[0.2, 0.3, 0.5]] * 100)
    made = Reference.fit(np.random.default_rng(0).normal(size=(100, 1)), outputs=outputs)
    with ModelMonitor(made, handlers=[], background=False) as monitor:
        shares = monitor.log_prediction([0.0], [0.2, 0.3, 0.5], 1.0, version="shares")
        quantiles = monitor.log_prediction([0.0], [1.0, 2.0, 4.0], 1.0, version="quantiles")
        broken = monitor.log_prediction([0.0], [np.nan, 2.0, 4.0], 1.0, version="broken")
        for answer in (shares, quantiles, broken):
            monitor.outcome(answer, 2)
        page = monitor.report(tmp_path / "report.html").read_text()
    assert "<th>coverage" in page
    assert "<td class=n>0, 1, 1" in page
    assert "<th>accuracy" in page
