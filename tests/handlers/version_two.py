"""A later version of the handler of `version_one`: it takes another parameter, and makes other bytes."""

import msgspec

from filemill.handlers import Job, handler


class Letter(msgspec.Struct, forbid_unknown_fields=True):
    text: str
    closing: str = ""


@handler("letter", content_type="text/plain", extension="txt", deterministic=True, version="2")
def letter(job: Job[Letter]) -> bytes:
    return f"{job.parameters.text}\n\n{job.parameters.closing or 'Regards'}\n".encode()
