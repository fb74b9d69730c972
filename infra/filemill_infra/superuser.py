"""The superuser of the database cluster: its name, and its password in existing data."""

SUPERUSER = "filemill_superuser"

# In data of earlier versions it was the application's role, with a published password. A session cannot rename its own
# user, so another role does.
_RENAME = f"EXECUTE format('ALTER ROLE %s RENAME TO {SUPERUSER}', 10::oid::regrole)"
_NAME_SUPERUSER = f"""\
CREATE ROLE filemill_renamer SUPERUSER;
SET SESSION AUTHORIZATION filemill_renamer;
DO $$ BEGIN IF 10::oid::regrole::text <> '{SUPERUSER}' THEN {_RENAME}; END IF; END $$;
SET SESSION AUTHORIZATION {SUPERUSER};
DROP ROLE filemill_renamer;
"""


def superuser_statements(password: str) -> str:
    """Statements that set the name and the password of the superuser that initdb created, one a line.

    They are for single-user mode, which opens no port and requires no password.
    """
    if "'" in password or "\n" in password:
        raise ValueError("the superuser's password must have neither quotes nor line ends")
    return f"{_NAME_SUPERUSER}ALTER ROLE {SUPERUSER} PASSWORD '{password}';\n"
