"""Replaying and dismissing dead letters.

A replay starts a new run of the file: its row becomes pending, and its request goes through the outbox like any other.
So a replay has a sequence number, is visible, can be cancelled, and happens once for each failure: the row is not
failed any more. A dead letter that names no existing file cannot be replayed.

A dismissal says that nothing has to be done, for example about a record without a file. It can be taken back, and ends
if the record is dead-lettered again.
"""

import time
from collections.abc import Callable, Sequence

import msgspec
import sqlalchemy as sa

from filemill.adapters.postgres.dismissals import delete_dismissals, insert_dismissals
from filemill.adapters.postgres.file_actions import retry_files
from filemill.domain.dead_letters import DeadLetter, ReplayRefusal, reason_counts
from filemill.domain.permissions import Permission, Principal
from filemill.services.access import authorize
from filemill.services.audit import record, record_files
from filemill.services.submissions import no_relay

# A file that failed in this many runs will probably fail in the next one too.
MAX_RUNS = 5
BATCH_FILES = 100
REPLAY = "dlq.replay"
DISMISS = "dlq.dismiss"
RESTORE = "dlq.restore"


class Replay(msgspec.Struct, frozen=True):
    """What a replay did, or with `dry_run` would do: files per reason, and their ids.

    `refused`: the positions of dead letters that cannot be replayed, with the reason; `refusal_codes`: with its code.
    """

    dry_run: bool
    reasons: dict[str, int]
    files: list[int]
    refused: dict[str, str]
    refusal_codes: dict[str, ReplayRefusal]


def ignore_progress(_count: int) -> None:
    """No progress is wanted."""


def replay(
    engine: sa.Engine,
    letters: Sequence[DeadLetter],
    *,
    principal: Principal,
    rate: float,
    dry_run: bool,
    max_runs: int = MAX_RUNS,
    progress: Callable[[int], None] = ignore_progress,
    wake_relay: Callable[[], None] = no_relay,
) -> Replay:
    """Start a new run of each dead letter's file, at most `rate` files a second. Raises Forbidden, Unavailable.

    After an interruption it can be called again. A file in its `max_runs`-th run or a later one is refused, so that a
    loop of failures and replays ends. `progress` is called with the number of files so far.
    """
    authorize(engine, principal, Permission.REPLAY_DEAD_LETTERS, asked=len(letters))
    refused: dict[str, str] = {}
    codes: dict[str, ReplayRefusal] = {}
    wanted: dict[int, DeadLetter] = {}
    for letter in letters:
        refusal = _refusal(letter, max_runs)
        if refusal is not None:
            codes[letter.place], refused[letter.place] = refusal
        elif letter.file_id is not None:
            wanted[letter.file_id] = letter
    result = Replay(dry_run, reason_counts(wanted.values()), [], refused, codes)
    if dry_run:
        result.files.extend(sorted(wanted))
        return result
    ids, batch = sorted(wanted), max(1, min(BATCH_FILES, int(rate)))
    due = time.monotonic()
    for start in range(0, len(ids), batch):
        time.sleep(max(0.0, due - time.monotonic()))
        part = ids[start : start + batch]
        with engine.begin() as connection:
            runs = retry_files(connection, part)
            record_files(connection, principal, REPLAY, [[file_id, run] for file_id, run in runs.items()], len(part))
        wake_relay()
        result.files.extend(runs)
        due += len(part) / rate
        progress(len(result.files))
    return result


def dismiss(engine: sa.Engine, letters: Sequence[DeadLetter], *, principal: Principal) -> list[str]:
    """Dismiss the dead letters that are not dismissed; returns their positions. Raises Forbidden, Unavailable."""
    return _set_dismissed(engine, [one for one in letters if not one.dismissed], principal, dismissed=True)


def restore(engine: sa.Engine, letters: Sequence[DeadLetter], *, principal: Principal) -> list[str]:
    """Take dismissals back; returns the positions of these dead letters. Raises Forbidden, Unavailable."""
    return _set_dismissed(engine, [one for one in letters if one.dismissed], principal, dismissed=False)


def _set_dismissed(
    engine: sa.Engine, letters: Sequence[DeadLetter], principal: Principal, *, dismissed: bool
) -> list[str]:
    authorize(engine, principal, Permission.DISMISS_DEAD_LETTERS, asked=len(letters))
    keys = {(*letter.latest, letter.latest_ms) for letter in letters}
    places = [letter.place for letter in letters]
    if keys:
        with engine.begin() as connection:
            if dismissed:
                insert_dismissals(connection, keys, principal.name)
            else:
                delete_dismissals(connection, keys)
            record(connection, principal, DISMISS if dismissed else RESTORE, {"places": places})
    return places


def _refusal(letter: DeadLetter, max_runs: int) -> tuple[ReplayRefusal, str] | None:
    if letter.refusal_code is not None:
        return letter.refusal_code, letter.refusal or ""
    run = letter.run or 1
    if run >= max_runs:
        text = f"file {letter.file_id} failed in run {run}; the maximum number of runs is {max_runs}"
        return ReplayRefusal.TOO_MANY_RUNS, text
    return None
