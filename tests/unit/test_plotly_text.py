"""No text becomes markup in a plotly figure."""

import json

import pandas as pd

from filemill.lab import figures
from filemill.lab.plotly_text import plain_figure

EVIL = '<a href="//evil.example">click</a> & co'
SHOWN = '&lt;a href="//evil.example"&gt;click&lt;/a&gt; &amp; co'


def test_all_texts_except_templates_are_escaped() -> None:
    figure = {
        "data": [{"name": EVIL, "text": [EVIL, EVIL], "x": [1, None, 2.5], "hovertemplate": "%{text}<extra></extra>"}],
        "layout": {"title": {"text": EVIL}, "yaxis": {"ticktext": [EVIL]}, "showlegend": True},
    }
    drawn = plain_figure(figure)
    assert drawn["data"][0] == {
        "name": SHOWN,
        "text": [SHOWN, SHOWN],
        "x": [1, None, 2.5],
        "hovertemplate": "%{text}<extra></extra>",
    }
    assert drawn["layout"] == {"title": {"text": SHOWN}, "yaxis": {"ticktext": [SHOWN]}, "showlegend": True}
    assert figure["data"][0]["name"] == EVIL, "a copy"  # type: ignore[index]


def test_worker_ids_and_fault_names_are_escaped_in_the_labs_figures() -> None:
    moment = pd.Timestamp("2026-01-04", tz="UTC")
    later = moment + pd.Timedelta(seconds=5)
    assignments = pd.DataFrame([{"worker": EVIL, "partition": 0, "began": moment, "ended": later, "epoch": 1}])
    results = pd.DataFrame([{"worker": EVIL, "at": moment, "files_per_second": 1.0}])
    faults = pd.DataFrame([{"fault": EVIL, "began": moment, "ended": later}])
    for figure in (figures.timeline(assignments, faults), figures.throughput(results, faults)):
        document = json.dumps(json.loads(figure.to_json()), ensure_ascii=False)
        assert "<a " not in document
        assert "&lt;a href" in document
