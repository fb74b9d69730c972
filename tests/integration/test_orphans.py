"""A valid record with an unknown file id: every check reports it, and its object can be deleted."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.tables import File, Operation
from filemill.config.settings import Settings, as_environment
from filemill.domain.files import object_key
from filemill.domain.messages import FileCreate, encode
from filemill.entrypoints import bootstrap
from filemill.queries.overview import overview
from filemill.services.orphans import Orphan, OrphanKind
from filemill.verification.findings import FindingCode
from filemill_dashboard.views.advice import advise
from tests.integration import topics
from tests.integration.harness import PipelineHarness
from tests.integration.processes import wait_until
from tests.principals import TEST

THEN = datetime(2026, 1, 4, 12, tzinfo=UTC)


def put(settings: Settings, key: str) -> None:
    bootstrap.s3_client(settings).put_object(Bucket=settings.s3_bucket, Key=key, Body=b"x")


def keys(settings: Settings) -> set[str]:
    found = bootstrap.s3_client(settings).list_objects_v2(Bucket=settings.s3_bucket)
    return {entry["Key"] for entry in found.get("Contents", [])}


def run(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "filemill", "orphans", *arguments],
        env=os.environ | as_environment(settings),
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.timeout(120)
def test_the_object_of_an_unknown_file_is_an_orphan(harness: PipelineHarness) -> None:
    settings = harness.settings
    harness.run_in_threads("relay", "sync")
    harness.start("processor")
    ids = harness.submit(2)
    stranger = FileCreate(999, "forged", "", THEN)
    topics.publish(settings, settings.topic_create, [encode(stranger)])
    harness.wait_for(ids)
    (rejected,) = wait_until(harness.rejected, 20, "the sync has rejected the unknown id")
    assert rejected["reason"] == "no file has the id 999"

    with harness.engine.connect() as connection:
        seen = overview(connection, settings.group_id)
    assert seen.unknown_ids == 1
    advice = advise(seen.group, seen.lags, seen.outbox, seen.leases, unknown_ids=seen.unknown_ids, interval_seconds=2)
    assert "One unknown file id in results of the last 24 hours" in [one.what for one in advice]

    finding = harness.verify().findings[FindingCode.ORPHAN_OBJECT]
    assert finding.examples == [object_key(999, THEN)]
    assert "filemill orphans delete" in finding.meaning

    assert "1 kept: their ids are greater than the newest" in run(settings, "delete", "--yes").stderr
    assert object_key(999, THEN) in keys(settings)
    assert "1 objects would be deleted" in run(settings, "delete", "--ids-not-given").stderr
    assert object_key(999, THEN) in keys(settings)
    assert "1 objects deleted" in run(settings, "delete", "--ids-not-given", "--yes").stderr
    assert len(keys(settings)) == 2
    harness.assert_clean()
    with harness.engine.connect() as connection:
        (detail,) = connection.execute(sa.select(Operation.detail)).scalars()
    assert (detail["count"], detail["keys"]) == (1, [object_key(999, THEN)])


def test_only_unowned_objects_with_our_keys_are_deleted(settings: Settings, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        made = [{"title": str(number), "created_at": THEN} for number in range(4)]
        own, gone, deleted, foreign = connection.execute(sa.insert(File).returning(File.id), made).scalars()
        connection.execute(sa.update(File).where(File.id == foreign).values(s3_location="elsewhere/a"))
        connection.execute(sa.delete(File).where(File.id.in_([gone, deleted])))
        tombstone = "INSERT INTO tombstones (file_id, run, status) VALUES (:id, 1, 'completed')"
        connection.execute(sa.text(tombstone), {"id": deleted})
    earlier = object_key(own, datetime(2020, 1, 1, tzinfo=UTC))
    owned = {object_key(own, THEN), earlier, object_key(deleted, THEN), "elsewhere/a"}
    orphan, beyond = object_key(gone, THEN), object_key(foreign + 1, THEN)
    for key in [*owned, orphan, beyond, "elsewhere/b"]:
        put(settings, key)

    orphans = bootstrap.orphans(settings, engine)
    assert {one.key: one.kind for one in orphans.find()} == {
        orphan: OrphanKind.UNKNOWN_ID,
        beyond: OrphanKind.ID_NOT_GIVEN,
        "elsewhere/b": OrphanKind.OTHER_KEY,
    }
    listed = json.loads(run(settings, "list", "--json").stdout)
    assert {one["key"]: one["kind"] for one in listed}[orphan] == "unknown id"
    assert orphans.delete(TEST, dry_run=True).deleted == [Orphan(orphan, 1, OrphanKind.UNKNOWN_ID)]
    assert orphan in keys(settings)
    result = orphans.delete(TEST, dry_run=False, ids_not_given=True)
    assert {one.key for one in result.deleted} == {orphan, beyond}
    assert keys(settings) == owned | {"elsewhere/b"}
