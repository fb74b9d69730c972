"""Submitting requests: the one place where a request is accepted, for the page, REST, the command line and the lab.

A request is accepted when its transaction commits: its row in `files`, its row in the outbox, and its idempotency key
if it has one. The relay publishes it from the outbox.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import sqlalchemy as sa

from filemill.adapters.postgres.connection import in_transaction
from filemill.adapters.postgres.file_rows import FileRow, locations_of_owner
from filemill.adapters.postgres.idempotency import claim_key, row_as_accepted, store_ids
from filemill.adapters.postgres.outbox import insert_many, insert_request, insert_requests
from filemill.config.settings import DEFAULT_QUEUES
from filemill.domain.accounts import is_person
from filemill.domain.file_actions import only_owner
from filemill.domain.files import NewFile, file_id_in_key
from filemill.domain.limits import LimitExceeded, Limits
from filemill.domain.permissions import Permission, Principal
from filemill.errors import InvalidRequest
from filemill.services.access import authorize
from filemill.services.job_requests import JobRequests
from filemill.services.quotas import Quotas, UsageView

NO_LIMITS = Limits()


class SubmissionAbandoned(Exception):
    """No sender waits for the answer any more: the transaction was rolled back, nothing was accepted."""


def no_relay() -> None:
    """No relay runs in this process: it finds new rows by polling."""


def _always() -> bool:
    return True


class Submissions:
    """Submits requests. Any thread. `wake_relay` is called after each commit.

    Each method raises Forbidden if a principal may not create files, InvalidRequest if the handler, the parameters or
    the queue of a request cannot be accepted, and LimitExceeded if the principal has submitted too much.

    Each method raises Unavailable. Then the requests may have been accepted, if only the answer to the commit was lost:
    use a key to retry safely.
    """

    def __init__(
        self,
        engine: sa.Engine,
        wake_relay: Callable[[], None] = no_relay,
        queues: Collection[str] = tuple(DEFAULT_QUEUES),
        limits: Limits = NO_LIMITS,
        *,
        own_files_only: bool = False,
    ) -> None:
        """`queues`: the names of all queues. `own_files_only`: inputs must be results that the principal may read."""
        self._engine = engine
        self._wake_relay = wake_relay
        self._jobs = JobRequests(queues)
        self._quotas = Quotas(limits)
        self._own_files_only = own_files_only

    def usage(self, principal: Principal) -> UsageView | None:
        """What a principal has used of the limits; None: nothing limits it. Raises Unavailable."""
        with self._engine.connect() as connection:
            return self._quotas.view(connection, principal)

    def errors(self, files: Sequence[NewFile]) -> list[InvalidRequest | None]:
        """What is wrong with each of these requests, without submitting them; None for one that can be accepted."""
        with self._engine.connect() as connection:
            return self._jobs.errors(connection, files)

    def submit(self, file: NewFile, traceparent: str | None = None, *, principal: Principal) -> FileRow:
        """Submit one request; returns its row. `traceparent` is a W3C trace context; None: a new one."""
        (row,) = self.submit_batch([file], [traceparent], principals=[principal])
        if isinstance(row, LimitExceeded):
            raise row
        return row

    def submit_batch(
        self,
        files: Sequence[NewFile],
        traceparents: Sequence[str | None],
        still_wanted: Callable[[], bool] = _always,
        *,
        principals: Sequence[Principal],
    ) -> list[FileRow | LimitExceeded]:
        """Submit the requests of several senders in one transaction; returns their rows, in the order given.

        A request above a limit of its sender is not accepted, and has the error in the place of its row.

        `principals` are the senders. If one of them may not create files, none is accepted: raises Forbidden.
        `still_wanted` is called just before the commit. If it returns False, none is accepted: raises
        SubmissionAbandoned.
        """
        for principal in principals:
            authorize(self._engine, principal, Permission.CREATE_FILES)

        def insert(connection: sa.Connection) -> list[FileRow | LimitExceeded]:
            checked = self._check(connection, files, principals)
            refused = self._quotas.use_each(connection, principals, checked)
            good = [place for place, error in enumerate(refused) if error is None]
            accepted = iter(
                insert_requests(
                    connection,
                    [checked[place] for place in good],
                    [traceparents[place] for place in good],
                    [principals[place].name for place in good],
                )
            )
            _check_wanted(still_wanted)
            return [next(accepted) if error is None else error for error in refused]

        rows = in_transaction(self._engine, insert)
        self._wake_relay()
        return rows

    def submit_once(
        self,
        file: NewFile,
        key: str,
        traceparent: str | None = None,
        still_wanted: Callable[[], bool] = _always,
        *,
        principal: Principal,
    ) -> tuple[FileRow, bool]:
        """Submit one request with an idempotency key, once; returns its row as accepted, and whether it was known.

        Raises KeyReused if the key came with another request; SubmissionAbandoned, see `submit_batch`.
        """
        authorize(self._engine, principal, Permission.CREATE_FILES)
        key = _of_principal(key, principal)

        def insert(connection: sa.Connection) -> tuple[FileRow, bool]:
            known = claim_key(connection, key, [file])
            if known is None:
                (checked,) = self._check(connection, [file], [principal])
                self._quotas.use(connection, principal, [checked])
                row = insert_request(connection, checked, traceparent=traceparent, owner=principal.name)
                store_ids(connection, key, [row.id], requested_at=row.created_at)
            else:
                row = row_as_accepted(known, file, self._jobs.queue(connection, file), principal.name)
            _check_wanted(still_wanted)
            return row, known is not None

        result = in_transaction(self._engine, insert)
        self._wake_relay()
        return result

    def submit_many(self, files: Sequence[NewFile], *, principal: Principal) -> list[int]:
        """Submit many requests in one transaction; returns their ids, in the order given."""
        authorize(self._engine, principal, Permission.CREATE_FILES, asked=len(files))

        def insert(connection: sa.Connection) -> list[int]:
            checked = self._check(connection, files, [principal] * len(files))
            self._quotas.use(connection, principal, checked)
            return insert_many(connection, checked, principal.name)

        ids = in_transaction(self._engine, insert)
        self._wake_relay()
        return ids

    def _check(
        self, connection: sa.Connection, files: Sequence[NewFile], principals: Sequence[Principal]
    ) -> list[NewFile]:
        """The requests, each with its queue. Raises InvalidRequest for the first one that cannot be accepted."""
        for file, principal in zip(files, principals, strict=True):
            owner = only_owner(principal, own_files_only=self._own_files_only)
            if file.inputs and owner is not None:
                _check_inputs(connection, file.inputs, owner)
        return self._jobs.check(connection, files)

    def submit_many_once(self, files: Sequence[NewFile], key: str, *, principal: Principal) -> list[int]:
        """Submit many requests with one idempotency key, once; returns their ids. Raises KeyReused."""
        authorize(self._engine, principal, Permission.CREATE_FILES, asked=len(files))
        key = _of_principal(key, principal)

        def insert(connection: sa.Connection) -> list[int]:
            known = claim_key(connection, key, files)
            if known is not None:
                return known.ids
            checked = self._check(connection, files, [principal] * len(files))
            self._quotas.use(connection, principal, checked)
            ids = insert_many(connection, checked, principal.name)
            store_ids(connection, key, ids)
            return ids

        ids = in_transaction(self._engine, insert)
        self._wake_relay()
        return ids


def _check_inputs(connection: sa.Connection, inputs: Mapping[str, str], owner: str) -> None:
    """Raises InvalidRequest unless each input is the present result of a file of this owner.

    The error is the same for an object of another person and for a missing one, because keys can be guessed.
    """
    keys = {name: key.removeprefix("s3://") for name, key in inputs.items()}
    ids = {file_id for key in keys.values() if (file_id := file_id_in_key(key)) is not None}
    readable = locations_of_owner(connection, ids, owner)
    for name, key in keys.items():
        if key not in readable:
            raise InvalidRequest(f"inputs.{name}", "is not the key of a completed file of yours")


def _of_principal(key: str, principal: Principal) -> str:
    """An idempotency key that another person cannot use: it would get, or block, the request of the first.

    Programs without a person share theirs: they are all admins, and their names contain changing addresses.
    """
    return f"{principal.name}\n{key}" if is_person(principal.name) else key


def _check_wanted(still_wanted: Callable[[], bool]) -> None:
    if not still_wanted():
        raise SubmissionAbandoned("the sender has been answered already")
