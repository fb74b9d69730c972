"""The first version of the handler of `version_two`."""

import msgspec

from filemill.handlers import Job, handler


class Letter(msgspec.Struct, forbid_unknown_fields=True):
    text: str


@handler("letter", content_type="text/plain", extension="txt", deterministic=True, version="1")
def letter(job: Job[Letter]) -> bytes:
    return f"{job.parameters.text}\n".encode()
