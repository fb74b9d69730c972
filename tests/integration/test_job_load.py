"""The load of the lab with requests of a handler among it."""

import sqlalchemy as sa

from filemill.adapters.postgres.tables import File, OutboxRow
from filemill.config.settings import Settings
from filemill.domain.handlers import HandlerSpec
from filemill.entrypoints import bootstrap
from filemill.lab.load import JobMix, LoadGenerator
from tests.integration.announcements import announce

REPORT = HandlerSpec(
    name="report", version="1", content_type="text/plain", extension="txt", schema={"type": "object"}, timeout=10
)


def test_jobs_are_among_the_load_and_wait_for_a_worker_that_has_the_handler(
    settings: Settings, engine: sa.Engine
) -> None:
    bootstrap.prepare(settings, timeout_seconds=30)
    load = LoadGenerator(engine)
    load.mix = JobMix("report", count=3, every=4, parameters='{"a": 1}')
    load.backlog(10)
    assert load.jobs == [], "no worker has announced the handler"
    announce(engine, REPORT)
    load.backlog(1)
    load.backlog(2)
    load.backlog(10)
    assert len(load.jobs) == 3
    with engine.connect() as connection:
        rows = connection.execute(sa.select(File.id, File.handler, File.parameters).order_by(File.id)).all()
        queues = connection.execute(sa.select(OutboxRow.queue).order_by(OutboxRow.file_id)).scalars().all()
    assert len(rows) == len(load.submitted) == 23
    assert [row.id for row in rows if (row.handler, row.parameters) == ("report", {"a": 1})] == load.jobs
    assert [row.id for row, queue in zip(rows, queues, strict=True) if queue == "jobs"] == load.jobs
