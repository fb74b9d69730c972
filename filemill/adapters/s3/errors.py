"""What an answer of an S3 service means, by its error code, or by the status where it has none.

The codes are those of Amazon S3 (API reference, "Error responses"), and some of MinIO, Ceph and SeaweedFS. A code that
is not listed is its status; a status that is not listed is the service's trouble: what is sent here does not vary.
"""

import re

import msgspec

from filemill.adapters.errors import Answer, first_line
from filemill.config.settings import Settings
from filemill.errors import Unavailable


class Row(msgspec.Struct, frozen=True):
    """What one code means. `status` is that with which it comes.

    `problem` follows "S3 at ADDRESS" in a sentence, `advice` is a sentence for whoever runs the service.
    """

    code: str
    status: int
    answer: Answer
    problem: str = ""
    advice: str = ""


_KEYS = "Check FILEMILL_AWS_ACCESS_KEY_ID and FILEMILL_AWS_SECRET_ACCESS_KEY"
_TOKEN = f"{_KEYS}; temporary ones need FILEMILL_S3_SESSION_TOKEN too, and new ones when they expire"
_POLICY = "Grant it to this key, or check FILEMILL_S3_BUCKET"
_REGION = "Check FILEMILL_S3_REGION and FILEMILL_S3_ENDPOINT"
_ENDPOINT = "Check FILEMILL_S3_ENDPOINT"
_BUCKET = "Run `filemill prepare`, or check FILEMILL_S3_BUCKET"
_CLOCK = "Set this machine's clock, or the service's"
_ROOM = "Free some space in the service, or raise the quota"

ROWS: tuple[Row, ...] = (
    # Who we are
    Row("AccessDenied", 403, Answer.MEND, "does not grant this key what is needed", _POLICY),
    Row("AccountProblem", 403, Answer.MEND, "has trouble with the key's account", _KEYS),
    Row("AllAccessDisabled", 403, Answer.MEND, "has disabled all access to the bucket", _POLICY),
    Row("ExpiredToken", 400, Answer.MEND, "says that the temporary credentials have expired", _TOKEN),
    Row("InvalidAccessKeyId", 403, Answer.MEND, "does not know the access key", _TOKEN),
    Row("InvalidSecurity", 403, Answer.MEND, "refuses our credentials", _KEYS),
    Row("InvalidToken", 400, Answer.MEND, "does not know the session token", _TOKEN),
    Row("NotSignedUp", 403, Answer.MEND, "has no account for the key", _KEYS),
    Row("SignatureDoesNotMatch", 403, Answer.MEND, "refuses our credentials", _KEYS),
    Row("TokenRefreshRequired", 400, Answer.MEND, "wants a new session token", _TOKEN),
    # When
    Row("RequestExpired", 400, Answer.MEND, "finds our clock wrong", _CLOCK),
    Row("RequestTimeTooSkewed", 403, Answer.MEND, "finds our clock wrong", _CLOCK),
    # Where
    Row("AuthorizationHeaderMalformed", 400, Answer.MEND, "expects another region", _REGION),
    Row("IllegalLocationConstraintException", 400, Answer.MEND, "expects another region", _REGION),
    Row("InvalidBucketName", 400, Answer.MEND, "refuses the bucket's name", "Check FILEMILL_S3_BUCKET"),
    Row("MethodNotAllowed", 405, Answer.MEND, "does not allow it; it may be no S3 service", _ENDPOINT),
    Row("NoSuchBucket", 404, Answer.MEND, "has no such bucket", _BUCKET),
    Row("NotImplemented", 501, Answer.MEND, "does not know how to do that", _ENDPOINT),
    Row("PermanentRedirect", 301, Answer.MEND, "refers to another address, for another region", _REGION),
    Row("Redirect", 307, Answer.MEND, "refers to another address", _REGION),
    Row("TemporaryRedirect", 307, Answer.WAIT, "refers to another address for now", _REGION),
    # How much, and when it can
    Row("BadDigest", 400, Answer.WAIT, "received something else than was sent"),
    Row("BandwidthLimitExceeded", 503, Answer.WAIT, "has too much to do"),
    Row("ConditionalRequestConflict", 409, Answer.WAIT, "is doing something else with the object"),
    Row("IncompleteBody", 400, Answer.WAIT, "received less than was sent"),
    Row("InternalError", 500, Answer.WAIT, "has an internal error"),
    Row("InvalidObjectState", 403, Answer.MEND, "has the object in an archive", "Restore it there"),
    Row("OperationAborted", 409, Answer.WAIT, "is doing something else with the bucket"),
    Row("QuotaExceeded", 403, Answer.MEND, "has no room left for us", _ROOM),
    Row("RequestTimeout", 400, Answer.WAIT, "waited too long for what was sent"),
    Row("ServiceUnavailable", 503, Answer.WAIT, "is unavailable"),
    Row("SlowDown", 503, Answer.WAIT, "has too much to do"),
    Row("ThrottlingException", 400, Answer.WAIT, "has too much to do"),
    Row("TooManyRequests", 429, Answer.WAIT, "has too much to do"),
    Row("XAmzContentSHA256Mismatch", 400, Answer.WAIT, "received something else than was sent"),
    Row("XMinioAdminBucketQuotaExceeded", 400, Answer.MEND, "has no room left in the bucket", _ROOM),
    Row("XMinioStorageFull", 507, Answer.MEND, "has no room left", _ROOM),
    # What
    Row("KeyTooLongError", 400, Answer.MISSING),
    Row("NoSuchKey", 404, Answer.MISSING),
    Row("NoSuchVersion", 404, Answer.MISSING),
    Row("EntityTooLarge", 400, Answer.BUG),
    Row("EntityTooSmall", 400, Answer.BUG),
    Row("InvalidArgument", 400, Answer.BUG),
    Row("InvalidDigest", 400, Answer.BUG),
    Row("InvalidRange", 416, Answer.BUG),
    Row("InvalidRequest", 400, Answer.BUG),
    Row("InvalidURI", 400, Answer.BUG),
    Row("MalformedXML", 400, Answer.BUG),
    Row("MetadataTooLarge", 400, Answer.BUG),
    Row("MissingContentLength", 411, Answer.BUG),
    Row("PreconditionFailed", 412, Answer.BUG),
    # Nothing but a status: the answer to HEAD, or a proxy's
    Row("301", 301, Answer.MEND, "refers to another address, for another region", _REGION),
    Row("302", 302, Answer.MEND, "refers to another address", _ENDPOINT),
    Row("307", 307, Answer.MEND, "refers to another address", _REGION),
    Row("308", 308, Answer.MEND, "refers to another address", _ENDPOINT),
    Row("400", 400, Answer.MEND, "refuses the request", _TOKEN),
    Row("401", 401, Answer.MEND, "refuses our credentials", _KEYS),
    Row("403", 403, Answer.MEND, "refuses our credentials", f"{_KEYS}, and what they are granted"),
    Row("404", 404, Answer.MISSING),
    Row("407", 407, Answer.MEND, "is behind a proxy that refuses us", "Check FILEMILL_S3_PROXY"),
    Row("408", 408, Answer.WAIT, "waited too long for what was sent"),
    Row("409", 409, Answer.WAIT, "is doing something else there"),
    Row("412", 412, Answer.BUG),
    Row("416", 416, Answer.BUG),
    Row("429", 429, Answer.WAIT, "has too much to do"),
    Row("500", 500, Answer.WAIT, "has an internal error"),
    Row("502", 502, Answer.WAIT, "is not there for its proxy"),
    Row("503", 503, Answer.WAIT, "is unavailable"),
    Row("504", 504, Answer.WAIT, "does not answer its proxy"),
    Row("507", 507, Answer.MEND, "has no room left", _ROOM),
)
AWAY = Row("", 0, Answer.WAIT, "is away")
_STRANGE = Row("", 0, Answer.MEND, "answers with an error", "The service's log says more")
_BY_CODE = {row.code: row for row in ROWS}
_SKEWED = "RequestTimeTooSkewed"
# An answer without a code says 403 also where the clocks differ by more than this.
SKEW_SECONDS = 15 * 60

_CODE = re.compile(r"<Code>\s*([^<\s]+)\s*</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_NOWHERE = "Received redirect without LOCATION"


def meaning(code: str, status: int | None = None, *, skew_seconds: float = 0) -> Row:
    """The row of an answer. `skew_seconds`: how far the service's clock is from ours."""
    if code in ("", "403") and status == 403 and abs(skew_seconds) > SKEW_SECONDS:
        code = _SKEWED
    return _BY_CODE.get(code) or _BY_CODE.get(str(status)) or (AWAY if status is None and not code else _STRANGE)


def meaning_of_text(text: str) -> tuple[str, Row]:
    """The code, or the status, and the row of an error that obstore tells of."""
    code, status = _CODE.search(text), _STATUS.search(text)
    if code is None and status is None and _NOWHERE in text:
        return "301", meaning("301")
    named = code[1] if code else ""
    number = int(status[1]) if status else None
    return named or str(number or ""), meaning(named, number)


def unavailable(settings: Settings, row: Row, said: str) -> Unavailable:
    """The sentence of a row. `said` is the code, or what the client says of a service that does not answer."""
    where = f"S3 at {settings.s3_endpoint}"
    if row.code == "NoSuchBucket":
        problem = f"{where} has no bucket {settings.s3_bucket}"
    else:
        problem = f"{where} {row.problem}: {said}" if said else f"{where} {row.problem}"
    return Unavailable(problem, row.advice, summary=row.problem)


def no_answer(settings: Settings, error: BaseException) -> Unavailable:
    """The sentence of a service that does not answer."""
    return unavailable(settings, AWAY, first_line(error))
