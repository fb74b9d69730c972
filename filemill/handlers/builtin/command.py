"""The handler `command`: a command line that the operator allows. Its stdout is the file.

The operator names the command lines in `FILEMILL_HANDLERS_COMMANDS`. A request chooses one by its name, and its
parameters go to the command's stdin as JSON. They never become arguments, and no shell is used.
"""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from filemill.handlers import Handler, Job, PermanentError, handler

CHUNK_BYTES = 256 * 1024


class Command(msgspec.Struct, forbid_unknown_fields=True):
    """`name` is one of the allowed command lines; `data` goes to its stdin as JSON."""

    name: str
    data: dict[str, Any] = {}


def command_handler(commands: Mapping[str, Sequence[str]]) -> Handler:
    """The handler for these command lines. Raises InvalidHandler."""

    @handler(
        "command",
        content_type="application/octet-stream",
        extension="bin",
        deterministic=False,
        timeout=300,
        memory="1 GiB",
        attempts=3,
    )
    def command(job: Job[Command]) -> Iterator[bytes]:
        line = commands.get(job.parameters.name)
        if line is None:
            allowed = ", ".join(sorted(commands))
            raise PermanentError(f'There is no command "{job.parameters.name}". Allowed: {allowed}')
        source = job.folder / "parameters.json"
        source.write_bytes(msgspec.json.encode(job.parameters.data))
        with source.open("rb") as given, subprocess.Popen(list(line), stdin=given, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            while chunk := process.stdout.read(CHUNK_BYTES):
                yield chunk
        if process.returncode != 0:
            raise RuntimeError(f'The command "{job.parameters.name}" ended with the exit code {process.returncode}')

    return command
