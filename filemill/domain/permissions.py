"""Who may do what: roles, one table of permissions, and one function that decides.

Use cases, REST and pages ask `refusal`. The tables in docs/security.md are generated from the tables here and in
`filemill_dashboard.rest.permissions`.
"""

import enum

import msgspec

from filemill.errors import Forbidden


class Role(enum.StrEnum):
    """The roles. Each one includes the permissions of those before it."""

    VIEWER = "viewer"
    SUBMITTER = "submitter"
    OPERATOR = "operator"
    ADMIN = "admin"

    @property
    def rank(self) -> int:
        """Its position, from 0."""
        return _RANKS[self]


_RANKS = {role: rank for rank, role in enumerate(Role)}


class RequestSource(msgspec.Struct, frozen=True):
    """Where a request comes from, for the audit log. Empty: unknown.

    `authentication` says how the principal signed in: `local`, `cli`, `launch token`, `access token`, `proxy`,
    `session:` and the first digits of the hash under which the session is stored, or `token:` and the id of a token.
    None of these can sign in. `address` is the client's. `request_id` is the id of the HTTP request, of the request
    that opened a page's WebSocket, or of a run of a command.
    """

    authentication: str = ""
    address: str = ""
    request_id: str = ""


class Principal(msgspec.Struct, frozen=True):
    """The person or program that a request comes from. `name` is its name in the audit log.

    Without a role it may do nothing. `token`: the id of the personal token by which a program acts for the person.
    `source` decides nothing.
    """

    name: str
    role: Role | None
    token: int | None = None
    source: RequestSource = RequestSource()


# Whoever reaches the port in mode `local`, and programs that have the credentials of the servers.
LOCAL = RequestSource("local")
# A client that has not signed in, or whose session has ended.
ANONYMOUS = Principal("nobody", None)


class Permission(enum.StrEnum):
    """What a role may allow."""

    VIEW = "view"
    CREATE_FILES = "files.create"
    VIEW_FILES_OF_OTHERS = "files.view"
    RETRY_OWN_FILES = "files.retry-own"
    CANCEL_OWN_FILES = "files.cancel-own"
    DELETE_OWN_FILES = "files.delete-own"
    RETRY_FILES = "files.retry"
    CANCEL_FILES = "files.cancel"
    DELETE_FILES = "files.delete"
    READ_DEAD_LETTERS = "dead-letters.read"
    REPLAY_DEAD_LETTERS = "dead-letters.replay"
    DISMISS_DEAD_LETTERS = "dead-letters.dismiss"
    READ_MESSAGES = "messages.read"
    GET_NOTEBOOKS = "notebooks.get"
    COMMAND_WORKERS = "workers.command"
    MANAGE_WORKERS = "workers.manage"
    FORGET_WORKERS = "workers.forget"
    PREVIEW_OFFSETS = "offsets.preview"
    RESET_OFFSETS = "offsets.reset"
    ADD_PARTITIONS = "partitions.add"
    INJECT_FAULTS = "faults.inject"
    DELETE_ORPHANS = "orphans.delete"
    STOP_JOBS = "jobs.stop"
    USE_OWN_ACCOUNT = "account.own"
    CREATE_TOKENS = "tokens.create"
    MANAGE_TOKENS = "tokens.manage"
    MANAGE_PEOPLE = "people.manage"
    READ_AUDIT = "audit.read"


class Rule(msgspec.Struct, frozen=True):
    """The least role that has a permission, and what it allows: the subject of a sentence."""

    role: Role
    activity: str


RULES: dict[Permission, Rule] = {
    Permission.VIEW: Rule(Role.VIEWER, "Reading pages, lists and files"),
    Permission.USE_OWN_ACCOUNT: Rule(Role.VIEWER, "Listing and ending own sessions and tokens"),
    Permission.CREATE_TOKENS: Rule(Role.SUBMITTER, "Creating own tokens"),
    Permission.CREATE_FILES: Rule(Role.SUBMITTER, "Creating files"),
    Permission.RETRY_OWN_FILES: Rule(Role.SUBMITTER, "Retrying own files"),
    Permission.CANCEL_OWN_FILES: Rule(Role.SUBMITTER, "Cancelling own files"),
    Permission.DELETE_OWN_FILES: Rule(Role.SUBMITTER, "Deleting own files"),
    Permission.VIEW_FILES_OF_OTHERS: Rule(Role.OPERATOR, "Reading files of others with FILEMILL_OWN_FILES_ONLY"),
    Permission.RETRY_FILES: Rule(Role.OPERATOR, "Retrying files of others"),
    Permission.CANCEL_FILES: Rule(Role.OPERATOR, "Cancelling files of others"),
    Permission.READ_DEAD_LETTERS: Rule(Role.OPERATOR, "Reading dead letters"),
    Permission.REPLAY_DEAD_LETTERS: Rule(Role.OPERATOR, "Replaying dead letters"),
    Permission.DISMISS_DEAD_LETTERS: Rule(Role.OPERATOR, "Dismissing dead letters"),
    Permission.READ_MESSAGES: Rule(Role.OPERATOR, "Reading messages"),
    Permission.GET_NOTEBOOKS: Rule(Role.OPERATOR, "Getting notebooks"),
    Permission.COMMAND_WORKERS: Rule(Role.OPERATOR, "Quieting and resuming workers"),
    Permission.FORGET_WORKERS: Rule(Role.OPERATOR, "Forgetting workers that have stopped"),
    Permission.PREVIEW_OFFSETS: Rule(Role.OPERATOR, "Previewing an offset reset"),
    Permission.STOP_JOBS: Rule(Role.OPERATOR, "Stopping background jobs"),
    Permission.READ_AUDIT: Rule(Role.OPERATOR, "Reading and exporting the audit log"),
    Permission.DELETE_FILES: Rule(Role.ADMIN, "Deleting files of others"),
    Permission.MANAGE_WORKERS: Rule(Role.ADMIN, "Scaling, stopping and killing workers"),
    Permission.RESET_OFFSETS: Rule(Role.ADMIN, "Resetting offsets"),
    Permission.ADD_PARTITIONS: Rule(Role.ADMIN, "Adding partitions"),
    Permission.INJECT_FAULTS: Rule(Role.ADMIN, "Injecting faults"),
    Permission.DELETE_ORPHANS: Rule(Role.ADMIN, "Deleting orphans"),
    Permission.MANAGE_TOKENS: Rule(Role.ADMIN, "Managing tokens of others"),
    Permission.MANAGE_PEOPLE: Rule(Role.ADMIN, "Managing accounts"),
}


def allows(role: Role | None, permission: Permission) -> bool:
    """Whether a role has a permission."""
    return role is not None and role.rank >= RULES[permission].role.rank


def refusal(principal: Principal, permission: Permission) -> Forbidden | None:
    """Why the principal may not do it; None: it may. The only place that decides."""
    if allows(principal.role, permission):
        return None
    rule, held = RULES[permission], f"the role {principal.role}" if principal.role else "no role"
    who = "you are not signed in" if principal.name == ANONYMOUS.name else f"{principal.name} has {held}"
    return Forbidden(f"{rule.activity} requires the role {rule.role}; {who}", permission)


def local_admin(name: str, source: RequestSource = LOCAL) -> Principal:
    """A program that has the credentials of the servers, such as a command or a notebook: nothing limits it."""
    return Principal(name, Role.ADMIN, source=source)
