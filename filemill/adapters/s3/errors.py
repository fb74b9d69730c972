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

RULES: tuple[S3ErrorRule, ...] = (
    # Authentication and authorization
    S3ErrorRule(
        "AccessDenied",
        403,
        S3ErrorCode.AUTHORIZATION,
        ErrorCategory.ACTION_REQUIRED,
        "does not grant this key the required rights",
        _POLICY,
    ),
    S3ErrorRule(
        "AccountProblem",
        403,
        S3ErrorCode.AUTHENTICATION,
        ErrorCategory.ACTION_REQUIRED,
        "reports a problem with the key's account",
        _KEYS,
    ),
    S3ErrorRule(
        "AllAccessDisabled",
        403,
        S3ErrorCode.AUTHORIZATION,
        ErrorCategory.ACTION_REQUIRED,
        "has disabled all access to the bucket",
        _POLICY,
    ),
    S3ErrorRule(
        "ExpiredToken",
        400,
        S3ErrorCode.AUTHENTICATION,
        ErrorCategory.ACTION_REQUIRED,
        "reports that the temporary credentials have expired",
        _TOKEN,
    ),
    S3ErrorRule(
        "InvalidAccessKeyId",
        403,
        S3ErrorCode.AUTHENTICATION,
        ErrorCategory.ACTION_REQUIRED,
        "does not know the access key",
        _TOKEN,
    ),
    S3ErrorRule(
        "InvalidSecurity",
        403,
        S3ErrorCode.AUTHENTICATION,
        ErrorCategory.ACTION_REQUIRED,
        "rejects our credentials",
        _KEYS,
    ),
    S3ErrorRule(
        "InvalidToken",
        400,
        S3ErrorCode.AUTHENTICATION,
        ErrorCategory.ACTION_REQUIRED,
        "does not know the session token",
        _TOKEN,
    ),
    S3ErrorRule(
        "NotSignedUp",
        403,
        S3ErrorCode.AUTHENTICATION,
        ErrorCategory.ACTION_REQUIRED,
        "has no account for the key",
        _KEYS,
    ),
    S3ErrorRule(
        "SignatureDoesNotMatch",
        403,
        S3ErrorCode.AUTHENTICATION,
        ErrorCategory.ACTION_REQUIRED,
        "rejects our credentials",
        _KEYS,
    ),
    S3ErrorRule(
        "TokenRefreshRequired",
        400,
        S3ErrorCode.AUTHENTICATION,
        ErrorCategory.ACTION_REQUIRED,
        "requires a new session token",
        _TOKEN,
    ),
    # Clocks
    S3ErrorRule(
        "RequestExpired",
        400,
        S3ErrorCode.CLOCK_SKEW,
        ErrorCategory.ACTION_REQUIRED,
        "has a clock that differs from ours",
        _CLOCK,
    ),
    S3ErrorRule(
        "RequestTimeTooSkewed",
        403,
        S3ErrorCode.CLOCK_SKEW,
        ErrorCategory.ACTION_REQUIRED,
        "has a clock that differs from ours",
        _CLOCK,
    ),
    # Address and region
    S3ErrorRule(
        "AuthorizationHeaderMalformed",
        400,
        S3ErrorCode.WRONG_REGION,
        ErrorCategory.ACTION_REQUIRED,
        "expects another region",
        _REGION,
    ),
    S3ErrorRule(
        "IllegalLocationConstraintException",
        400,
        S3ErrorCode.WRONG_REGION,
        ErrorCategory.ACTION_REQUIRED,
        "expects another region",
        _REGION,
    ),
    S3ErrorRule(
        "InvalidBucketName",
        400,
        S3ErrorCode.INVALID_BUCKET_NAME,
        ErrorCategory.ACTION_REQUIRED,
        "rejects the bucket's name",
        "Check FILEMILL_S3_BUCKET",
    ),
    S3ErrorRule(
        "MethodNotAllowed",
        405,
        S3ErrorCode.NOT_SUPPORTED,
        ErrorCategory.ACTION_REQUIRED,
        "does not allow the request; it may not be an S3 service",
        _ENDPOINT,
    ),
    S3ErrorRule(
        "NoSuchBucket", 404, S3ErrorCode.UNKNOWN_BUCKET, ErrorCategory.ACTION_REQUIRED, "has no such bucket", _BUCKET
    ),
    S3ErrorRule(
        "NotImplemented",
        501,
        S3ErrorCode.NOT_SUPPORTED,
        ErrorCategory.ACTION_REQUIRED,
        "does not support the request",
        _ENDPOINT,
    ),
    S3ErrorRule(
        "PermanentRedirect",
        301,
        S3ErrorCode.REDIRECT,
        ErrorCategory.ACTION_REQUIRED,
        "redirects to another address, for another region",
        _REGION,
    ),
    S3ErrorRule(
        "Redirect", 307, S3ErrorCode.REDIRECT, ErrorCategory.ACTION_REQUIRED, "redirects to another address", _REGION
    ),
    S3ErrorRule(
        "TemporaryRedirect",
        307,
        S3ErrorCode.REDIRECT,
        ErrorCategory.TRANSIENT,
        "temporarily redirects to another address",
        _REGION,
    ),
    # Load, capacity and transfer
    S3ErrorRule(
        "BadDigest", 400, S3ErrorCode.CORRUPT_UPLOAD, ErrorCategory.TRANSIENT, "received other bytes than were sent"
    ),
    S3ErrorRule("BandwidthLimitExceeded", 503, S3ErrorCode.THROTTLED, ErrorCategory.TRANSIENT, "is overloaded"),
    S3ErrorRule(
        "ConditionalRequestConflict",
        409,
        S3ErrorCode.CONFLICT,
        ErrorCategory.TRANSIENT,
        "has a conflicting operation on the object",
    ),
    S3ErrorRule(
        "IncompleteBody",
        400,
        S3ErrorCode.CORRUPT_UPLOAD,
        ErrorCategory.TRANSIENT,
        "received fewer bytes than were sent",
    ),
    S3ErrorRule("InternalError", 500, S3ErrorCode.INTERNAL, ErrorCategory.TRANSIENT, "has an internal error"),
    S3ErrorRule(
        "InvalidObjectState",
        403,
        S3ErrorCode.ARCHIVED,
        ErrorCategory.ACTION_REQUIRED,
        "has archived the object",
        "Restore it",
    ),
    S3ErrorRule(
        "OperationAborted",
        409,
        S3ErrorCode.CONFLICT,
        ErrorCategory.TRANSIENT,
        "has a conflicting operation on the bucket",
    ),
    S3ErrorRule(
        "QuotaExceeded",
        403,
        S3ErrorCode.QUOTA_EXCEEDED,
        ErrorCategory.ACTION_REQUIRED,
        "has no space left for this key",
        _SPACE,
    ),
    S3ErrorRule(
        "RequestTimeout",
        400,
        S3ErrorCode.REQUEST_TIMEOUT,
        ErrorCategory.TRANSIENT,
        "did not receive the request in time",
    ),
    S3ErrorRule("ServiceUnavailable", 503, S3ErrorCode.UNAVAILABLE, ErrorCategory.TRANSIENT, "is unavailable"),
    S3ErrorRule("SlowDown", 503, S3ErrorCode.THROTTLED, ErrorCategory.TRANSIENT, "is overloaded"),
    S3ErrorRule("ThrottlingException", 400, S3ErrorCode.THROTTLED, ErrorCategory.TRANSIENT, "is overloaded"),
    S3ErrorRule("TooManyRequests", 429, S3ErrorCode.THROTTLED, ErrorCategory.TRANSIENT, "is overloaded"),
    S3ErrorRule(
        "XAmzContentSHA256Mismatch",
        400,
        S3ErrorCode.CORRUPT_UPLOAD,
        ErrorCategory.TRANSIENT,
        "received other bytes than were sent",
    ),
    S3ErrorRule(
        "XMinioAdminBucketQuotaExceeded",
        400,
        S3ErrorCode.QUOTA_EXCEEDED,
        ErrorCategory.ACTION_REQUIRED,
        "has no space left in the bucket",
        _SPACE,
    ),
    S3ErrorRule(
        "XMinioStorageFull", 507, S3ErrorCode.QUOTA_EXCEEDED, ErrorCategory.ACTION_REQUIRED, "has no space left", _SPACE
    ),
    # The request
    S3ErrorRule("KeyTooLongError", 400, S3ErrorCode.NOT_FOUND, ErrorCategory.NOT_FOUND),
    S3ErrorRule("NoSuchKey", 404, S3ErrorCode.NOT_FOUND, ErrorCategory.NOT_FOUND),
    S3ErrorRule("NoSuchVersion", 404, S3ErrorCode.NOT_FOUND, ErrorCategory.NOT_FOUND),
    S3ErrorRule("EntityTooLarge", 400, S3ErrorCode.BUG, ErrorCategory.BUG),
    S3ErrorRule("EntityTooSmall", 400, S3ErrorCode.BUG, ErrorCategory.BUG),
    S3ErrorRule("InvalidArgument", 400, S3ErrorCode.BUG, ErrorCategory.BUG),
    S3ErrorRule("InvalidDigest", 400, S3ErrorCode.BUG, ErrorCategory.BUG),
    S3ErrorRule("InvalidRange", 416, S3ErrorCode.BUG, ErrorCategory.BUG),
    S3ErrorRule("InvalidRequest", 400, S3ErrorCode.BUG, ErrorCategory.BUG),
    S3ErrorRule("InvalidURI", 400, S3ErrorCode.BUG, ErrorCategory.BUG),
    S3ErrorRule("MalformedXML", 400, S3ErrorCode.BUG, ErrorCategory.BUG),
    S3ErrorRule("MetadataTooLarge", 400, S3ErrorCode.BUG, ErrorCategory.BUG),
    S3ErrorRule("MissingContentLength", 411, S3ErrorCode.BUG, ErrorCategory.BUG),
    S3ErrorRule("PreconditionFailed", 412, S3ErrorCode.BUG, ErrorCategory.BUG),
    # A status without a code: the response to HEAD, or a proxy's
    S3ErrorRule(
        "301",
        301,
        S3ErrorCode.REDIRECT,
        ErrorCategory.ACTION_REQUIRED,
        "redirects to another address, for another region",
        _REGION,
    ),
    S3ErrorRule(
        "302", 302, S3ErrorCode.REDIRECT, ErrorCategory.ACTION_REQUIRED, "redirects to another address", _ENDPOINT
    ),
    S3ErrorRule(
        "307", 307, S3ErrorCode.REDIRECT, ErrorCategory.ACTION_REQUIRED, "redirects to another address", _REGION
    ),
    S3ErrorRule(
        "308", 308, S3ErrorCode.REDIRECT, ErrorCategory.ACTION_REQUIRED, "redirects to another address", _ENDPOINT
    ),
    S3ErrorRule("400", 400, S3ErrorCode.REQUEST_REJECTED, ErrorCategory.ACTION_REQUIRED, "rejects the request", _TOKEN),
    S3ErrorRule(
        "401", 401, S3ErrorCode.AUTHENTICATION, ErrorCategory.ACTION_REQUIRED, "rejects our credentials", _KEYS
    ),
    S3ErrorRule(
        "403",
        403,
        S3ErrorCode.AUTHENTICATION,
        ErrorCategory.ACTION_REQUIRED,
        "rejects our credentials",
        f"{_KEYS}, and their rights",
    ),
    S3ErrorRule("404", 404, S3ErrorCode.NOT_FOUND, ErrorCategory.NOT_FOUND),
    S3ErrorRule(
        "407",
        407,
        S3ErrorCode.PROXY,
        ErrorCategory.ACTION_REQUIRED,
        "is behind a proxy that rejects us",
        "Check FILEMILL_S3_PROXY",
    ),
    S3ErrorRule(
        "408", 408, S3ErrorCode.REQUEST_TIMEOUT, ErrorCategory.TRANSIENT, "did not receive the request in time"
    ),
    S3ErrorRule("409", 409, S3ErrorCode.CONFLICT, ErrorCategory.TRANSIENT, "has a conflicting operation"),
    S3ErrorRule("412", 412, S3ErrorCode.BUG, ErrorCategory.BUG),
    S3ErrorRule("416", 416, S3ErrorCode.BUG, ErrorCategory.BUG),
    S3ErrorRule("429", 429, S3ErrorCode.THROTTLED, ErrorCategory.TRANSIENT, "is overloaded"),
    S3ErrorRule("500", 500, S3ErrorCode.INTERNAL, ErrorCategory.TRANSIENT, "has an internal error"),
    S3ErrorRule("502", 502, S3ErrorCode.PROXY, ErrorCategory.TRANSIENT, "is unreachable for its proxy"),
    S3ErrorRule("503", 503, S3ErrorCode.UNAVAILABLE, ErrorCategory.TRANSIENT, "is unavailable"),
    S3ErrorRule("504", 504, S3ErrorCode.PROXY, ErrorCategory.TRANSIENT, "does not respond to its proxy"),
    S3ErrorRule("507", 507, S3ErrorCode.QUOTA_EXCEEDED, ErrorCategory.ACTION_REQUIRED, "has no space left", _SPACE),
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
