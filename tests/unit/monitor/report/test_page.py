import html
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from tests.unit.monitor.night import night

from engine.monitor import ModelMonitor, Reference
from engine.monitor._sketch import SHADOW


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.texts, self.ids = [], [], [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        named = dict(attributes)
        self.links += [named[key] for key in ("src", "href", "xlink:href") if key in named]
        self.ids += [named["id"]] if "id" in named else []

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    with night() as monitor:
        return monitor.report(tmp_path_factory.mktemp("page") / "report.html").read_text()


def test_the_first_screen_says_what_is_wrong_since_when_how_bad_what_changed_and_what_to_do(written):
    text = Page(written).text
    first = text[: text.index("Answers over time")]
    for said in (
        "flights Warning", "Too many fallbacks", "budget 5%", "inputs changed together:", ", was ",
        "Version flights@42 took over from flights@41", "Roll back from flights@42 to flights@41", "since ",
        "The primary's results come too late", "Ask the owner of the feed",
    ):  # fmt: skip
        assert said in first, said


def test_the_page_needs_no_other_file_and_no_network(written):
    page = Page(written)
    assert {link for link in page.links if not link.startswith("#")} == {"data:,"}
    assert "http://" not in written
    assert "https://" not in written
    assert "@import" not in written
    assert "url(" not in written
    assert "default-src 'none'" in written
    assert all(link[1:] in page.ids for link in page.links if link.startswith("#"))
    assert len(page.ids) == len(set(page.ids))


def test_thirty_columns_take_less_than_400_kb(written):
    assert len(written.encode()) < 400_000
    assert written.count("role=row id=") == 31


def test_it_is_made_for_phones_the_dark_and_readers(written):
    for part in (
        "<html lang=en",
        "viewport",
        "prefers-color-scheme",
        "<main",
        "<title>Warning: flights",
        "aria-label",
    ):
        assert part in written, part


def test_an_alert_is_linked_to_its_picture(written):
    anchor = re.search(r'data-name="temp"', written)
    row = written[written.rindex("<tr role=row id=", 0, anchor.start()) : anchor.start()]
    key = re.search(r"id=(\S+)", row)[1]
    assert written.count(f'href="#{key}"') == 2  # on the first screen and under Alerts
    assert "changed" in row


def test_columns_are_sorted_by_evidence(written):
    evidence = [float(found) for found in re.findall(r"data-evidence=([\d.]+)", written)]
    assert evidence == sorted(evidence, reverse=True)
    assert evidence[0] > 10


def test_text_of_others_is_never_markup(tmp_path):
    table = {"<b>temp</b>": np.zeros(200), "carrier": ["<UA>", "\"'&"] * 100}
    with ModelMonitor(
        Reference.fit(table), handlers=[], background=False, name="<script>x</script>"
    ) as monitor:
        monitor.log_prediction({"carrier": "<UA>"}, 0.5, 1.0, version="<i>7</i>")
        monitor.alert("<img src=x>")
        monitor.check()
        text = monitor.report(tmp_path / "r.html").read_text()
    for part in ("<b>temp", "<UA>", "<script>x", "<i>7", "<img"):
        assert part not in text
    assert "&lt;script&gt;x" in text


def test_everything_that_a_monitor_counts_is_shown(tmp_path):
    rng = np.random.default_rng(0)
    made = Reference.fit({"temp": rng.normal(size=500)}, outputs=rng.random(500))
    with ModelMonitor(made, handlers=[], background=False) as monitor:
        for place in range(400):
            source = ("primary", "fallback")[place % 2]
            answer = monitor.log_prediction(
                {"temp": rng.normal()}, rng.random(), 2.0, deadline_ms=1.0, source=source, version="fraud@7"
            )
            monitor.outcome(answer, place % 3 == 0, value=1.0 - place % 2)
        monitor._sketch.push(answer, values=np.array([0.5]), flags=SHADOW)
        monitor.counter("bookings").inc()
        path = monitor.report(tmp_path / "report.html")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    text = Page(path.read_text()).text
    assert "fraud Critical" in text  # the name is that of the version
    for said in ("Shadows against the live answers", "bookings", "400 joined", "Falling back cost 200", "Brier score",
                 "worth less", "Too many late answers", "agreement"):  # fmt: skip
        assert said in text, said


def test_a_monitor_without_answers_says_so(tmp_path):
    with ModelMonitor(background=False) as monitor:
        text = Page(monitor.report(tmp_path / "empty.html").read_text()).text
    assert "No answers yet" in text
    assert "Alerts None." in text


def test_outcomes_of_every_kind_are_shown(tmp_path):
    outputs = np.array([[0.2, 0.3, 0.5]] * 100)
    made = Reference.fit(np.random.default_rng(0).normal(size=(100, 1)), outputs=outputs)
    with ModelMonitor(made, handlers=[], background=False) as monitor:
        shares = monitor.log_prediction([0.0], [0.2, 0.3, 0.5], 1.0, version="shares")
        quantiles = monitor.log_prediction([0.0], [1.0, 2.0, 4.0], 1.0, version="quantiles")
        broken = monitor.log_prediction([0.0], [np.nan, 2.0, 4.0], 1.0, version="broken")
        for answer in (shares, quantiles, broken):
            monitor.outcome(answer, 2)
        text = monitor.report(tmp_path / "report.html").read_text()
    assert ">coverage</th>" in text
    assert ">0, 1, 1</td>" in text
    assert ">accuracy</th>" in text
    assert ">not finite</th>" in text


def test_several_models_are_on_one_page_the_worst_first(tmp_path):
    with night(broken=False, name="pricing") as well, night(name="flights") as ill:
        text = Page(well.report(tmp_path / "r.html", ill).read_text()).text
    assert "2 models" in text
    assert text.index("Warning flights") < text.index("All well pricing") < text.index("Answers over time")


def test_a_notebook_shows_the_page_in_a_frame():
    with ModelMonitor(background=False, name="fraud") as monitor:
        made = monitor._repr_html_()
    assert made.startswith('<iframe title="No answers yet: fraud" srcdoc="&lt;!doctype html&gt;')
    inner = html.unescape(re.search(r'srcdoc="(.*?)"', made, re.DOTALL)[1])
    assert inner.endswith("</html>")


def test_the_page_needs_no_library_for_pictures():
    import subprocess
    import sys

    script = (
        "import sys; from engine.monitor import ModelMonitor; m = ModelMonitor(background=False); m._repr_html_();"
        "print([name for name in ('matplotlib', 'jinja2', 'plotly') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
