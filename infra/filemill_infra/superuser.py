"""The superuser that initdb makes: its name, and its password in data that exists already."""

SUPERUSER = "filemill_superuser"

# In data of earlier versions it was the application's role, and its password was published. A session's own user cannot
# be renamed, so another one does it.
_RENAME = f"EXECUTE format('ALTER ROLE %s RENAME TO {SUPERUSER}', 10::oid::regrole)"
_NAME_SUPERUSER = f"""\
CREATE ROLE filemill_renamer SUPERUSER;
SET SESSION AUTHORIZATION filemill_renamer;
DO $$ BEGIN IF 10::oid::regrole::text <> '{SUPERUSER}' THEN {_RENAME}; END IF; END $$;
SET SESSION AUTHORIZATION {SUPERUSER};
DROP ROLE filemill_renamer;
"""


def superuser_statements(password: str) -> str:
    """Statements that give initdb's superuser its name and this password.

    They are for single-user mode, one a line: that needs no port and asks for no password.
    """
    if "'" in password or "\n" in password:
        raise ValueError("the superuser's password must have neither quotes nor line ends")
    return f"{_NAME_SUPERUSER}ALTER ROLE {SUPERUSER} PASSWORD '{password}';\n"
