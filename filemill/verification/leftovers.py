"""Lists what workers left in the bucket: objects that nothing needs, and open multipart uploads. Each with what to do.

They violate no invariant: a crash or an outage may leave them, and only they cost space.
"""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from filemill.adapters.s3.uploads import OpenUpload, S3Uploads
from filemill.config.settings import Settings
from filemill.domain.files import file_id_in_key, iso_milliseconds
from filemill.domain.leftovers import FileEnd, LeftoverKind, leftover_kind
from filemill.queries.leftovers import file_ends
from filemill.verification.report import VerificationReport

# The most keys that a note names.
KEYS_NAMED = 5


class LeftoverCounts:
    """The objects of the bucket that nothing needs, by kind."""

    def __init__(self) -> None:
        self._keys: dict[LeftoverKind, list[str]] = {}
        self._counts: dict[LeftoverKind, int] = {}

    def add(self, key: str, file: FileEnd | None) -> None:
        """Count an object of a file, if nothing needs it. `file` None: it was deleted."""
        kind = leftover_kind(key, file)
        if kind is not None:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            named = self._keys.setdefault(kind, [])
            if len(named) < KEYS_NAMED:
                named.append(key)

    def add_note(self, report: VerificationReport) -> None:
        """Add the counts and the first keys to the report."""
        report.leftovers = sum(self._counts.values())
        if self._counts:
            kinds = [f"{count} × {kind} ({_named(self._keys[kind], count)})" for kind, count in self._counts.items()]
            report.add_note(
                f"objects that nothing needs: {'; '.join(kinds)}. `filemill objects clean` lists them all, and with"
                " --yes deletes them"
            )


def note_open_uploads(engine: sa.Engine, settings: Settings, report: VerificationReport) -> None:
    """Note the multipart uploads that are open: of results that are being stored, or that were left by a crash.

    Raises Unavailable.
    """
    uploads = list(S3Uploads(settings).open())
    report.open_uploads = len(uploads)
    if not uploads:
        return
    ids = sorted({file_id for one in uploads if (file_id := file_id_in_key(one.key)) is not None})
    with engine.connect() as connection:
        files = file_ends(connection, ids)
    states = [_state(one, files) for one in uploads]
    keys = [
        f"{one.key} (since {iso_milliseconds(one.begun_at)}, {state})"
        for one, state in zip(uploads, states, strict=True)
    ]
    advice = []
    if any(state in (_ENDED, _DELETED) for state in states):
        advice.append("`filemill objects clean --yes` aborts those of ended and deleted files after an hour")
    if _UNKNOWN in states:
        advice.append("no file has the others' keys: find out who began them, and abort them with an S3 client")
    done = f". {'; '.join(advice)}" if advice else ""
    report.add_note(f"multipart uploads are open: {_named(keys[:KEYS_NAMED], len(keys))}{done}")


_ENDED, _DELETED, _UNKNOWN = "its file has ended", "its file was deleted", "of no file"


def _state(upload: OpenUpload, files: Mapping[int, FileEnd | None]) -> str:
    file_id = file_id_in_key(upload.key)
    if file_id is None or file_id not in files:
        return _UNKNOWN
    file = files[file_id]
    return _DELETED if file is None else _ENDED if file.status.terminal else "being stored"


def _named(keys: Sequence[str], count: int) -> str:
    more = f" and {count - len(keys)} more" if count > len(keys) else ""
    return ", ".join(keys) + more
