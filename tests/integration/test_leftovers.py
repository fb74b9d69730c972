"""`filemill objects clean` on real servers: what it deletes, and what it keeps."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from filemill.adapters.postgres.outbox import insert_many
from filemill.adapters.postgres.tables import File, Operation, Tombstone
from filemill.config.settings import Settings
from filemill.domain.files import checkpoint_key, new_file, object_key
from filemill.domain.permissions import Principal, Role
from filemill.entrypoints import bootstrap
from filemill.errors import Forbidden
from filemill.services import leftovers
from tests.principals import TEST

THEN = datetime(2026, 1, 4, 12, tzinfo=UTC)


def test_only_what_nothing_needs_is_removed(
    settings: Settings, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.begin() as connection:
        done, working = insert_many(connection, [new_file("done"), new_file("working")])
        won, other = (object_key(done, THEN, "pdf", f"run1-{part}") for part in ("aaaa0000", "bbbb0000"))
        connection.execute(sa.update(File).where(File.id == done).values(status="completed", s3_location=won))
        connection.execute(sa.update(File).where(File.id == working).values(status="processing"))
        connection.execute(sa.insert(Tombstone).values(file_id=900, run=1, status="completed"))
    removed = {other, checkpoint_key(done, THEN, 1), object_key(900, THEN)}
    kept = {won, checkpoint_key(working, THEN, 1), object_key(working, THEN), object_key(901, THEN), "by-hand.txt"}
    client, bucket = bootstrap.s3_client(settings), settings.s3_bucket
    for key in removed | kept:
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
    for file_id in (done, working):
        client.create_multipart_upload(Bucket=bucket, Key=object_key(file_id, THEN, "bin"))

    def open_uploads() -> set[str]:
        return {one["Key"] for one in client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])}

    def keys() -> set[str]:
        return {one["Key"] for one in client.list_objects_v2(Bucket=bucket)["Contents"]}

    service = bootstrap.leftovers(settings, engine)
    with pytest.raises(Forbidden):
        service.clean(Principal("operator", Role.OPERATOR), dry_run=False)
    planned = service.clean(TEST, dry_run=True)
    assert ({one.key for one in planned.objects}, planned.uploads, planned.bytes) == (removed, [], 3)
    assert keys() == removed | kept
    assert service.clean(TEST, dry_run=False).objects == planned.objects
    assert keys() == kept
    assert open_uploads() == {object_key(file_id, THEN, "bin") for file_id in (done, working)}, "they are young"
    monkeypatch.setattr(leftovers, "UPLOAD_AGE", -timedelta(hours=1))
    assert [one.key for one in service.clean(TEST, dry_run=False).uploads] == [object_key(done, THEN, "bin")]
    assert open_uploads() == {object_key(working, THEN, "bin")}
    assert service.clean(TEST, dry_run=False).objects == []
    with engine.connect() as connection:
        actions = sa.select(Operation.detail).where(Operation.action == "objects.clean").order_by(Operation.at)
        first, second = connection.execute(actions).scalars()
    assert (first["count"], set(first["keys"]), second["uploads"]) == (3, removed, [object_key(done, THEN, "bin")])
