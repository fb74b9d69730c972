"""The table of permissions: complete, in the documents, and asked by every use case that changes something."""

import ast
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import filemill.services
from filemill.domain.permissions import RULES, Permission, Principal, Role, allows, local_admin, refusal
from filemill.errors import Forbidden
from tests.permission_table import DOCUMENT, with_tables

SERVICES = Path(filemill.services.__file__).parent
# Calls that change something outside of the process.
WRITES = {
    "in_transaction",
    "begin",
    "record",
    "record_files",
    "send",
    "publish",
    "delete",
    "alter_offsets",
    "add_partitions",
    "migrate_schema",
    "create_topics",
}
# What changes something and is no person's or program's request.
WITHOUT_PRINCIPAL = {
    "access.authorize": "it asks itself",
    "access.record_attempt": "part of a use case",
    "accounts.Sessions.sign_in": "nobody is signed in before",
    "accounts.Sessions.sign_out": "everyone may end their own session",
    "accounts.Sessions.find": "it determines the principal",
    "tokens.TokenLookup.find": "it determines the principal",
    "accounts.Sessions.open": "part of a sign-in",
    "accounts.Sessions.end_of_provider": "the provider decides, by a signed token",
    "accounts.Sessions.count_tries": "part of a sign-in",
    "audit.record": "part of a use case",
    "audit.record_files": "part of a use case",
    "audit.record_refusal": "part of a use case",
    "faults.FaultEndRecorder.record": "the process itself completes audit records",
    "federation.Federation.begin": "nobody is signed in before",
    "federation.Federation.complete": "nobody is signed in before",
    "federation.Federation.bearer": "it determines the principal",
    "foreign_results.HashFiller.run": "a worker",
    "foreign_results.HashFiller.fill": "a worker",
    "request_losses.find_bounds": "registers topics",
    "request_losses.bounds_of": "registers topics",
    "request_losses.bounds_of_queues": "registers topics",
    "operations.Operations.gone_requests": "a read, which registers topics",
    "setup.prepare": "needs the credentials of the servers' owners",
}

Definition = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.Module) -> Iterator[tuple[str, Definition]]:
    """All functions and methods of a module with their qualified names."""
    for node in tree.body:
        if isinstance(node, Definition):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, Definition):
                    yield f"{node.name}.{inner.name}", inner


def name_of(node: ast.expr) -> str | None:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None


def called(node: ast.AST) -> set[str]:
    """The names of the functions that a function calls, and of the methods of its own object that it mentions."""
    names = {name_of(one.func) for one in ast.walk(node) if isinstance(one, ast.Call)}
    own = {
        one.attr
        for one in ast.walk(node)
        if isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name) and one.value.id == "self"
    }
    return own | {name for name in names if name is not None}


def reached(name: str, known: dict[str, Definition], seen: set[str]) -> set[str]:
    """The names that a function uses, also by way of other functions of its module."""
    seen.add(name)
    found = called(known[name])
    for other in known:
        if other.rpartition(".")[2] in found and other not in seen:
            found |= reached(other, known, seen)
    return found


def use_cases() -> Iterator[tuple[str, Definition, set[str]]]:
    """The public functions of the services, with the names that each uses."""
    for path in sorted(SERVICES.glob("*.py")):
        known = dict(functions(ast.parse(path.read_text(encoding="utf-8"))))
        for name, node in known.items():
            if not any(part.startswith("_") for part in name.split(".")):
                yield f"{path.stem}.{name}", node, reached(name, known, set())


USE_CASES = {name: (node, used) for name, node, used in use_cases()}
ASKING = {name: used for name, (node, used) in USE_CASES.items() if name not in WITHOUT_PRINCIPAL and used & WRITES}


def test_the_use_cases_are_found() -> None:
    assert {"operations.Operations.retry", "submissions.Submissions.submit_many", "partitions.add_partitions"} <= set(
        ASKING
    )
    assert set(WITHOUT_PRINCIPAL) <= set(USE_CASES), "a name is out of date"


@pytest.mark.parametrize("name", ASKING)
def test_each_use_case_that_changes_something_asks_for_a_permission(name: str) -> None:
    node, used = USE_CASES[name]
    arguments = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
    assert arguments & {"principal", "principals"}, f"{name} takes no principal"
    assert "authorize" in used, f"{name} does not call filemill.services.access.authorize"


def test_each_permission_has_a_rule_and_each_role_includes_the_one_before() -> None:
    assert set(RULES) == set(Permission)
    allowed = [{permission for permission in Permission if allows(role, permission)} for role in Role]
    assert all(less < more for less, more in pairwise(allowed))
    assert allowed[0] == {Permission.VIEW, Permission.USE_OWN_ACCOUNT}
    assert allowed[-1] == set(Permission)


def test_a_refusal_names_the_activity_and_both_roles() -> None:
    found = refusal(Principal("ann", Role.OPERATOR), Permission.DELETE_FILES)
    assert isinstance(found, Forbidden)
    assert str(found) == "Deleting files of others requires the role admin; ann has the role operator"
    assert (found.code, found.permission) == ("forbidden", "files.delete")
    assert refusal(local_admin("cli"), Permission.DELETE_FILES) is None


def test_the_document_has_the_tables_of_the_code() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text == with_tables(text), "run `python -m tests.permission_table`"
