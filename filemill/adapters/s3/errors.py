"""What an answer of an S3 service means, by its error code, or by the status where it has none.

The codes are those of Amazon S3 (API reference, "Error responses"), and some of MinIO, Ceph and SeaweedFS. A code that
is not listed is its status; a status that is not listed is the service's trouble: what is sent here does not vary.
"""

import re

import msgspec

from filemill.adapters.errors import ErrorCategory, first_line
from filemill.config.settings import Settings
from filemill.errors import Unavailable


class S3ErrorRule(msgspec.Struct, frozen=True):
    """What one code means. `status` is that with which it comes.

    `problem` follows "S3 at ADDRESS" in a sentence, `advice` is a sentence for whoever runs the service.
    """

    s3_code: str
    status: int
    category: ErrorCategory
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

RULES: tuple[S3ErrorRule, ...] = (
    # Who we are
    S3ErrorRule("AccessDenied", 403, ErrorCategory.ACTION_REQUIRED, "does not grant this key what is needed", _POLICY),
    S3ErrorRule("AccountProblem", 403, ErrorCategory.ACTION_REQUIRED, "has trouble with the key's account", _KEYS),
    S3ErrorRule(
        "AllAccessDisabled", 403, ErrorCategory.ACTION_REQUIRED, "has disabled all access to the bucket", _POLICY
    ),
    S3ErrorRule(
        "ExpiredToken", 400, ErrorCategory.ACTION_REQUIRED, "says that the temporary credentials have expired", _TOKEN
    ),
    S3ErrorRule("InvalidAccessKeyId", 403, ErrorCategory.ACTION_REQUIRED, "does not know the access key", _TOKEN),
    S3ErrorRule("InvalidSecurity", 403, ErrorCategory.ACTION_REQUIRED, "refuses our credentials", _KEYS),
    S3ErrorRule("InvalidToken", 400, ErrorCategory.ACTION_REQUIRED, "does not know the session token", _TOKEN),
    S3ErrorRule("NotSignedUp", 403, ErrorCategory.ACTION_REQUIRED, "has no account for the key", _KEYS),
    S3ErrorRule("SignatureDoesNotMatch", 403, ErrorCategory.ACTION_REQUIRED, "refuses our credentials", _KEYS),
    S3ErrorRule("TokenRefreshRequired", 400, ErrorCategory.ACTION_REQUIRED, "wants a new session token", _TOKEN),
    # When
    S3ErrorRule("RequestExpired", 400, ErrorCategory.ACTION_REQUIRED, "finds our clock wrong", _CLOCK),
    S3ErrorRule("RequestTimeTooSkewed", 403, ErrorCategory.ACTION_REQUIRED, "finds our clock wrong", _CLOCK),
    # Where
    S3ErrorRule("AuthorizationHeaderMalformed", 400, ErrorCategory.ACTION_REQUIRED, "expects another region", _REGION),
    S3ErrorRule(
        "IllegalLocationConstraintException", 400, ErrorCategory.ACTION_REQUIRED, "expects another region", _REGION
    ),
    S3ErrorRule(
        "InvalidBucketName", 400, ErrorCategory.ACTION_REQUIRED, "refuses the bucket's name", "Check FILEMILL_S3_BUCKET"
    ),
    S3ErrorRule(
        "MethodNotAllowed", 405, ErrorCategory.ACTION_REQUIRED, "does not allow it; it may be no S3 service", _ENDPOINT
    ),
    S3ErrorRule("NoSuchBucket", 404, ErrorCategory.ACTION_REQUIRED, "has no such bucket", _BUCKET),
    S3ErrorRule("NotImplemented", 501, ErrorCategory.ACTION_REQUIRED, "does not know how to do that", _ENDPOINT),
    S3ErrorRule(
        "PermanentRedirect",
        301,
        ErrorCategory.ACTION_REQUIRED,
        "refers to another address, for another region",
        _REGION,
    ),
    S3ErrorRule("Redirect", 307, ErrorCategory.ACTION_REQUIRED, "refers to another address", _REGION),
    S3ErrorRule("TemporaryRedirect", 307, ErrorCategory.TRANSIENT, "refers to another address for now", _REGION),
    # How much, and when it can
    S3ErrorRule("BadDigest", 400, ErrorCategory.TRANSIENT, "received something else than was sent"),
    S3ErrorRule("BandwidthLimitExceeded", 503, ErrorCategory.TRANSIENT, "has too much to do"),
    S3ErrorRule("ConditionalRequestConflict", 409, ErrorCategory.TRANSIENT, "is doing something else with the object"),
    S3ErrorRule("IncompleteBody", 400, ErrorCategory.TRANSIENT, "received less than was sent"),
    S3ErrorRule("InternalError", 500, ErrorCategory.TRANSIENT, "has an internal error"),
    S3ErrorRule(
        "InvalidObjectState", 403, ErrorCategory.ACTION_REQUIRED, "has the object in an archive", "Restore it there"
    ),
    S3ErrorRule("OperationAborted", 409, ErrorCategory.TRANSIENT, "is doing something else with the bucket"),
    S3ErrorRule("QuotaExceeded", 403, ErrorCategory.ACTION_REQUIRED, "has no room left for us", _ROOM),
    S3ErrorRule("RequestTimeout", 400, ErrorCategory.TRANSIENT, "waited too long for what was sent"),
    S3ErrorRule("ServiceUnavailable", 503, ErrorCategory.TRANSIENT, "is unavailable"),
    S3ErrorRule("SlowDown", 503, ErrorCategory.TRANSIENT, "has too much to do"),
    S3ErrorRule("ThrottlingException", 400, ErrorCategory.TRANSIENT, "has too much to do"),
    S3ErrorRule("TooManyRequests", 429, ErrorCategory.TRANSIENT, "has too much to do"),
    S3ErrorRule("XAmzContentSHA256Mismatch", 400, ErrorCategory.TRANSIENT, "received something else than was sent"),
    S3ErrorRule(
        "XMinioAdminBucketQuotaExceeded", 400, ErrorCategory.ACTION_REQUIRED, "has no room left in the bucket", _ROOM
    ),
    S3ErrorRule("XMinioStorageFull", 507, ErrorCategory.ACTION_REQUIRED, "has no room left", _ROOM),
    # What
    S3ErrorRule("KeyTooLongError", 400, ErrorCategory.NOT_FOUND),
    S3ErrorRule("NoSuchKey", 404, ErrorCategory.NOT_FOUND),
    S3ErrorRule("NoSuchVersion", 404, ErrorCategory.NOT_FOUND),
    S3ErrorRule("EntityTooLarge", 400, ErrorCategory.BUG),
    S3ErrorRule("EntityTooSmall", 400, ErrorCategory.BUG),
    S3ErrorRule("InvalidArgument", 400, ErrorCategory.BUG),
    S3ErrorRule("InvalidDigest", 400, ErrorCategory.BUG),
    S3ErrorRule("InvalidRange", 416, ErrorCategory.BUG),
    S3ErrorRule("InvalidRequest", 400, ErrorCategory.BUG),
    S3ErrorRule("InvalidURI", 400, ErrorCategory.BUG),
    S3ErrorRule("MalformedXML", 400, ErrorCategory.BUG),
    S3ErrorRule("MetadataTooLarge", 400, ErrorCategory.BUG),
    S3ErrorRule("MissingContentLength", 411, ErrorCategory.BUG),
    S3ErrorRule("PreconditionFailed", 412, ErrorCategory.BUG),
    # Nothing but a status: the answer to HEAD, or a proxy's
    S3ErrorRule("301", 301, ErrorCategory.ACTION_REQUIRED, "refers to another address, for another region", _REGION),
    S3ErrorRule("302", 302, ErrorCategory.ACTION_REQUIRED, "refers to another address", _ENDPOINT),
    S3ErrorRule("307", 307, ErrorCategory.ACTION_REQUIRED, "refers to another address", _REGION),
    S3ErrorRule("308", 308, ErrorCategory.ACTION_REQUIRED, "refers to another address", _ENDPOINT),
    S3ErrorRule("400", 400, ErrorCategory.ACTION_REQUIRED, "refuses the request", _TOKEN),
    S3ErrorRule("401", 401, ErrorCategory.ACTION_REQUIRED, "refuses our credentials", _KEYS),
    S3ErrorRule(
        "403", 403, ErrorCategory.ACTION_REQUIRED, "refuses our credentials", f"{_KEYS}, and what they are granted"
    ),
    S3ErrorRule("404", 404, ErrorCategory.NOT_FOUND),
    S3ErrorRule(
        "407", 407, ErrorCategory.ACTION_REQUIRED, "is behind a proxy that refuses us", "Check FILEMILL_S3_PROXY"
    ),
    S3ErrorRule("408", 408, ErrorCategory.TRANSIENT, "waited too long for what was sent"),
    S3ErrorRule("409", 409, ErrorCategory.TRANSIENT, "is doing something else there"),
    S3ErrorRule("412", 412, ErrorCategory.BUG),
    S3ErrorRule("416", 416, ErrorCategory.BUG),
    S3ErrorRule("429", 429, ErrorCategory.TRANSIENT, "has too much to do"),
    S3ErrorRule("500", 500, ErrorCategory.TRANSIENT, "has an internal error"),
    S3ErrorRule("502", 502, ErrorCategory.TRANSIENT, "is not there for its proxy"),
    S3ErrorRule("503", 503, ErrorCategory.TRANSIENT, "is unavailable"),
    S3ErrorRule("504", 504, ErrorCategory.TRANSIENT, "does not answer its proxy"),
    S3ErrorRule("507", 507, ErrorCategory.ACTION_REQUIRED, "has no room left", _ROOM),
)
UNREACHABLE = S3ErrorRule("", 0, ErrorCategory.TRANSIENT, "is away")
_UNKNOWN = S3ErrorRule("", 0, ErrorCategory.ACTION_REQUIRED, "answers with an error", "The service's log says more")
_BY_CODE = {row.s3_code: row for row in RULES}
_SKEWED = "RequestTimeTooSkewed"
# An answer without a code says 403 also where the clocks differ by more than this.
SKEW_SECONDS = 15 * 60

_CODE = re.compile(r"<Code>\s*([^<\s]+)\s*</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_NOWHERE = "Received redirect without LOCATION"


def classify(code: str, status: int | None = None, *, skew_seconds: float = 0) -> S3ErrorRule:
    """The row of an answer. `skew_seconds`: how far the service's clock is from ours."""
    if code in ("", "403") and status == 403 and abs(skew_seconds) > SKEW_SECONDS:
        code = _SKEWED
    return _BY_CODE.get(code) or _BY_CODE.get(str(status)) or (UNREACHABLE if status is None and not code else _UNKNOWN)


def classify_text(text: str) -> tuple[str, S3ErrorRule]:
    """The code, or the status, and the row of an error that obstore tells of."""
    code, status = _CODE.search(text), _STATUS.search(text)
    if code is None and status is None and _NOWHERE in text:
        return "301", classify("301")
    named = code[1] if code else ""
    number = int(status[1]) if status else None
    return named or str(number or ""), classify(named, number)


def unavailable(settings: Settings, row: S3ErrorRule, said: str) -> Unavailable:
    """The sentence of a row. `said` is the code, or what the client says of a service that does not answer."""
    where = f"S3 at {settings.s3_endpoint}"
    if row.s3_code == "NoSuchBucket":
        problem = f"{where} has no bucket {settings.s3_bucket}"
    else:
        problem = f"{where} {row.problem}: {said}" if said else f"{where} {row.problem}"
    return Unavailable(problem, row.advice, summary=row.problem)


def unreachable(settings: Settings, error: BaseException) -> Unavailable:
    """The sentence of a service that does not answer."""
    return unavailable(settings, UNREACHABLE, first_line(error))
