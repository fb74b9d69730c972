"""What a response of an S3 service means, by its error code, or by its HTTP status if it has none.

The codes are those of Amazon S3 (API reference, "Error responses"), and some of MinIO, Ceph and SeaweedFS. A code
without a rule has the rule of its status. A status without a rule is an error of the service.
"""

import enum
import re

import msgspec

from filemill.adapters.errors import ErrorCategory, first_line
from filemill.config.settings import Settings
from filemill.errors import Unavailable


class S3ErrorCode(enum.StrEnum):
    """The machine-readable code of an `Unavailable` that S3 caused."""

    UNREACHABLE = "s3-unreachable"
    AUTHORIZATION = "s3-authorization"
    AUTHENTICATION = "s3-authentication"
    CLOCK_SKEW = "s3-clock-skew"
    WRONG_REGION = "s3-wrong-region"
    INVALID_BUCKET_NAME = "s3-invalid-bucket-name"
    NOT_SUPPORTED = "s3-not-supported"
    UNKNOWN_BUCKET = "s3-unknown-bucket"
    REDIRECT = "s3-redirect"
    CORRUPT_UPLOAD = "s3-corrupt-upload"
    THROTTLED = "s3-throttled"
    CONFLICT = "s3-conflict"
    INTERNAL = "s3-internal"
    ARCHIVED = "s3-archived"
    QUOTA_EXCEEDED = "s3-quota-exceeded"
    REQUEST_TIMEOUT = "s3-request-timeout"
    UNAVAILABLE = "s3-unavailable"
    REQUEST_REJECTED = "s3-request-rejected"
    PROXY = "s3-proxy"
    NOT_FOUND = "s3-not-found"
    BUG = "s3-bug"
    UNKNOWN = "s3-unknown-error"


class S3ErrorRule(msgspec.Struct, frozen=True):
    """What one error code of S3 means. `status` is the HTTP status that it comes with.

    `problem` follows "S3 at ADDRESS" in a sentence, `advice` is a sentence for whoever runs the service.
    """

    s3_code: str
    status: int
    code: S3ErrorCode
    category: ErrorCategory
    problem: str = ""
    advice: str = ""


_KEYS = "Check FILEMILL_AWS_ACCESS_KEY_ID and FILEMILL_AWS_SECRET_ACCESS_KEY"
_TOKEN = f"{_KEYS}; temporary ones need FILEMILL_S3_SESSION_TOKEN too, and must be renewed when they expire"
_POLICY = "Grant it to this key, or check FILEMILL_S3_BUCKET"
_REGION = "Check FILEMILL_S3_REGION and FILEMILL_S3_ENDPOINT"
_ENDPOINT = "Check FILEMILL_S3_ENDPOINT"
_BUCKET = "Run `filemill prepare`, or check FILEMILL_S3_BUCKET"
_CLOCK = "Set this machine's clock, or the service's"
_SPACE = "Free space in the service, or raise the quota"

_Code = S3ErrorCode


def _action(s3_code: str, status: int, code: S3ErrorCode, problem: str, advice: str) -> S3ErrorRule:
    return S3ErrorRule(s3_code, status, code, ErrorCategory.ACTION_REQUIRED, problem, advice)


def _transient(s3_code: str, status: int, code: S3ErrorCode, problem: str, advice: str = "") -> S3ErrorRule:
    return S3ErrorRule(s3_code, status, code, ErrorCategory.TRANSIENT, problem, advice)


def _not_found(s3_code: str, status: int) -> S3ErrorRule:
    return S3ErrorRule(s3_code, status, S3ErrorCode.NOT_FOUND, ErrorCategory.NOT_FOUND)


def _bug(s3_code: str, status: int) -> S3ErrorRule:
    return S3ErrorRule(s3_code, status, S3ErrorCode.BUG, ErrorCategory.BUG)


RULES: tuple[S3ErrorRule, ...] = (
    # Authentication and authorization
    _action("AccessDenied", 403, _Code.AUTHORIZATION, "does not grant this key the required rights", _POLICY),
    _action("AccountProblem", 403, _Code.AUTHENTICATION, "reports a problem with the key's account", _KEYS),
    _action("AllAccessDisabled", 403, _Code.AUTHORIZATION, "has disabled all access to the bucket", _POLICY),
    _action("ExpiredToken", 400, _Code.AUTHENTICATION, "reports that the temporary credentials have expired", _TOKEN),
    _action("InvalidAccessKeyId", 403, _Code.AUTHENTICATION, "does not know the access key", _TOKEN),
    _action("InvalidSecurity", 403, _Code.AUTHENTICATION, "rejects our credentials", _KEYS),
    _action("InvalidToken", 400, _Code.AUTHENTICATION, "does not know the session token", _TOKEN),
    _action("NotSignedUp", 403, _Code.AUTHENTICATION, "has no account for the key", _KEYS),
    _action("SignatureDoesNotMatch", 403, _Code.AUTHENTICATION, "rejects our credentials", _KEYS),
    _action("TokenRefreshRequired", 400, _Code.AUTHENTICATION, "requires a new session token", _TOKEN),
    # Clocks
    _action("RequestExpired", 400, _Code.CLOCK_SKEW, "has a clock that differs from ours", _CLOCK),
    _action("RequestTimeTooSkewed", 403, _Code.CLOCK_SKEW, "has a clock that differs from ours", _CLOCK),
    # Address and region
    _action("AuthorizationHeaderMalformed", 400, _Code.WRONG_REGION, "expects another region", _REGION),
    _action("IllegalLocationConstraintException", 400, _Code.WRONG_REGION, "expects another region", _REGION),
    _action(
        "InvalidBucketName", 400, _Code.INVALID_BUCKET_NAME, "rejects the bucket's name", "Check FILEMILL_S3_BUCKET"
    ),
    _action(
        "MethodNotAllowed",
        405,
        _Code.NOT_SUPPORTED,
        "does not allow the request; it may not be an S3 service",
        _ENDPOINT,
    ),
    _action("NoSuchBucket", 404, _Code.UNKNOWN_BUCKET, "has no such bucket", _BUCKET),
    _action("NotImplemented", 501, _Code.NOT_SUPPORTED, "does not support the request", _ENDPOINT),
    _action("PermanentRedirect", 301, _Code.REDIRECT, "redirects to another address, for another region", _REGION),
    _action("Redirect", 307, _Code.REDIRECT, "redirects to another address", _REGION),
    _transient("TemporaryRedirect", 307, _Code.REDIRECT, "temporarily redirects to another address", _REGION),
    # Load, capacity and transfer
    _transient("BadDigest", 400, _Code.CORRUPT_UPLOAD, "received other bytes than were sent"),
    _transient("BandwidthLimitExceeded", 503, _Code.THROTTLED, "is overloaded"),
    _transient("ConditionalRequestConflict", 409, _Code.CONFLICT, "has a conflicting operation on the object"),
    _transient("IncompleteBody", 400, _Code.CORRUPT_UPLOAD, "received fewer bytes than were sent"),
    _transient("InternalError", 500, _Code.INTERNAL, "has an internal error"),
    _action("InvalidObjectState", 403, _Code.ARCHIVED, "has archived the object", "Restore it"),
    _transient("OperationAborted", 409, _Code.CONFLICT, "has a conflicting operation on the bucket"),
    _action("QuotaExceeded", 403, _Code.QUOTA_EXCEEDED, "has no space left for this key", _SPACE),
    _transient("RequestTimeout", 400, _Code.REQUEST_TIMEOUT, "did not receive the request in time"),
    _transient("ServiceUnavailable", 503, _Code.UNAVAILABLE, "is unavailable"),
    _transient("SlowDown", 503, _Code.THROTTLED, "is overloaded"),
    _transient("ThrottlingException", 400, _Code.THROTTLED, "is overloaded"),
    _transient("TooManyRequests", 429, _Code.THROTTLED, "is overloaded"),
    _transient("XAmzContentSHA256Mismatch", 400, _Code.CORRUPT_UPLOAD, "received other bytes than were sent"),
    _action("XMinioAdminBucketQuotaExceeded", 400, _Code.QUOTA_EXCEEDED, "has no space left in the bucket", _SPACE),
    _action("XMinioStorageFull", 507, _Code.QUOTA_EXCEEDED, "has no space left", _SPACE),
    # The request
    _not_found("KeyTooLongError", 400),
    _not_found("NoSuchKey", 404),
    _not_found("NoSuchVersion", 404),
    _bug("EntityTooLarge", 400),
    _bug("EntityTooSmall", 400),
    _bug("InvalidArgument", 400),
    _bug("InvalidDigest", 400),
    _bug("InvalidRange", 416),
    _bug("InvalidRequest", 400),
    _bug("InvalidURI", 400),
    _bug("MalformedXML", 400),
    _bug("MetadataTooLarge", 400),
    _bug("MissingContentLength", 411),
    _bug("PreconditionFailed", 412),
    # A status without a code: the response to HEAD, or a proxy's
    _action("301", 301, _Code.REDIRECT, "redirects to another address, for another region", _REGION),
    _action("302", 302, _Code.REDIRECT, "redirects to another address", _ENDPOINT),
    _action("307", 307, _Code.REDIRECT, "redirects to another address", _REGION),
    _action("308", 308, _Code.REDIRECT, "redirects to another address", _ENDPOINT),
    _action("400", 400, _Code.REQUEST_REJECTED, "rejects the request", _TOKEN),
    _action("401", 401, _Code.AUTHENTICATION, "rejects our credentials", _KEYS),
    _action("403", 403, _Code.AUTHENTICATION, "rejects our credentials", f"{_KEYS}, and their rights"),
    _not_found("404", 404),
    _action("407", 407, _Code.PROXY, "is behind a proxy that rejects us", "Check FILEMILL_S3_PROXY"),
    _transient("408", 408, _Code.REQUEST_TIMEOUT, "did not receive the request in time"),
    _transient("409", 409, _Code.CONFLICT, "has a conflicting operation"),
    _bug("412", 412),
    _bug("416", 416),
    _transient("429", 429, _Code.THROTTLED, "is overloaded"),
    _transient("500", 500, _Code.INTERNAL, "has an internal error"),
    _transient("502", 502, _Code.PROXY, "is unreachable for its proxy"),
    _transient("503", 503, _Code.UNAVAILABLE, "is unavailable"),
    _transient("504", 504, _Code.PROXY, "does not respond to its proxy"),
    _action("507", 507, _Code.QUOTA_EXCEEDED, "has no space left", _SPACE),
)
UNREACHABLE = S3ErrorRule("", 0, S3ErrorCode.UNREACHABLE, ErrorCategory.TRANSIENT, "is unreachable")
_UNKNOWN = S3ErrorRule(
    "", 0, S3ErrorCode.UNKNOWN, ErrorCategory.ACTION_REQUIRED, "responds with an error", "See the service's log"
)
_BY_S3_CODE = {rule.s3_code: rule for rule in RULES}
_SKEWED = "RequestTimeTooSkewed"
# A 403 without a code also means that the clocks differ by more than this.
SKEW_SECONDS = 15 * 60

_CODE = re.compile(r"<Code>\s*([^<\s]+)\s*</Code>")
_STATUS = re.compile(r"status code: (\d{3})")
_NO_LOCATION = "Received redirect without LOCATION"


def classify(s3_code: str, status: int | None = None, *, skew_seconds: float = 0) -> S3ErrorRule:
    """The rule of a response. `skew_seconds`: the service's clock minus ours."""
    if s3_code in ("", "403") and status == 403 and abs(skew_seconds) > SKEW_SECONDS:
        s3_code = _SKEWED
    rule = _BY_S3_CODE.get(s3_code) or _BY_S3_CODE.get(str(status))
    return rule or (UNREACHABLE if status is None and not s3_code else _UNKNOWN)


def classify_text(text: str) -> tuple[str, S3ErrorRule]:
    """S3's error code, or the HTTP status, and the rule of an error of obstore. obstore has them only in its text."""
    code, status = _CODE.search(text), _STATUS.search(text)
    if code is None and status is None and _NO_LOCATION in text:
        return "301", classify("301")
    s3_code = code[1] if code else ""
    number = int(status[1]) if status else None
    return s3_code or str(number or ""), classify(s3_code, number)


def unavailable(settings: Settings, rule: S3ErrorRule, detail: str) -> Unavailable:
    """The exception of a rule. `detail` is S3's code, or the client's message if the service does not respond."""
    where = f"S3 at {settings.s3_endpoint}"
    if rule.code is S3ErrorCode.UNKNOWN_BUCKET:
        problem = f"{where} has no bucket {settings.s3_bucket}"
    else:
        problem = f"{where} {rule.problem}: {detail}" if detail else f"{where} {rule.problem}"
    return Unavailable(problem, rule.advice, summary=rule.problem, code=rule.code)


def unreachable(settings: Settings, error: BaseException) -> Unavailable:
    """The exception for a service that does not respond."""
    return unavailable(settings, UNREACHABLE, first_line(error))
