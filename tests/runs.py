"""Folders of runs of the lab, created without a run."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd

from filemill.lab.results import RUN, VERDICT, Results
from filemill.runtime.journal import FAULT

BEGAN = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PER_SECOND = 10
SECONDS = 3


def planted(
    root: Path,
    name: str,
    *,
    began: datetime = BEGAN,
    ok: bool = True,
    folder: Path | None = None,
    parameters: object = None,
    **measures: float,
) -> Results:
    """A run of ten files a second for three seconds, each completed a second later, with one kill of Kafka."""
    folder = folder or root / f"{name.replace(' ', '-')}-{began:%Y%m%d-%H%M%S}-{len(list(root.glob('*')))}"
    folder.mkdir(parents=True, exist_ok=True)
    results = Results(folder)
    facts = {"name": name, "began": began.isoformat(), "parameters": parameters or {"workers": 3}}
    facts["machine"] = {"cores": 2, "load_average": [0.1, 0.2, 0.3]}
    (folder / RUN).write_text(json.dumps({**facts, "versions": {"filemill": "0"}}))
    check = {"number": "1", "title": "Every request ends", "ok": ok, "evidence": "30 of 30", "examples": []}
    (folder / VERDICT).write_text(json.dumps({"checks": [check], "report": {}, "audit": None, "at": began.isoformat()}))
    asked = [began + timedelta(seconds=place / PER_SECOND) for place in range(SECONDS * PER_SECOND)]
    done = [moment + timedelta(seconds=1) for moment in asked]
    results.save_frame("files", pd.DataFrame({"intended_at": asked, "updated_at": done, "status": "completed"}))
    results.save_frame("executions", pd.DataFrame({"at": done, "worker": "processor-1", "again": False}))
    fault = {"fault": "kafka killed", "target": "kafka", "began": began + timedelta(seconds=1)}
    results.save_frame("faults", pd.DataFrame([{**fault, "ended": began + timedelta(seconds=2.5)}]))
    results.save_summary({"files": 30.0, "files_per_second": 10.0, **measures})
    journal = results.journal()
    with journal.record_interval(FAULT, "kafka killed", "kafka"):
        pass
    return results
