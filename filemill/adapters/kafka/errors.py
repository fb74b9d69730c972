"""What an error of Kafka means, by its code: the broker's (positive) and librdkafka's own (negative).

Which of the broker's pass by themselves is Kafka's own rule (Protocol guide, "Error codes", retriable), and librdkafka
tries most of those again before anybody hears of them.
"""

from collections.abc import Iterator

import msgspec
from confluent_kafka import KafkaError

from filemill.adapters.errors import ErrorCategory


class KafkaErrorRule(msgspec.Struct, frozen=True):
    """What one code means.

    `problem` follows "Kafka at ADDRESS" in a sentence, `advice` is a sentence for whoever runs the brokers. `passes`:
    the client goes on by itself, so whoever reads with it does not give it up.
    """

    number: int
    name: str
    category: ErrorCategory
    problem: str = ""
    advice: str = ""
    client_recovers: bool = False


def _rows(
    answer: ErrorCategory, problem: str, advice: str, *names: str, passes: bool = False
) -> Iterator[KafkaErrorRule]:
    for name in names:
        yield KafkaErrorRule(getattr(KafkaError, name), name, answer, problem, advice, passes)


_ACL = "Grant it to this user (kafka-acls), or check the credentials in FILEMILL_KAFKA_PROPERTIES"
_CREDENTIALS = "Check security.protocol and the sasl.* properties in FILEMILL_KAFKA_PROPERTIES"
_TLS = "Check security.protocol and the ssl.* properties in FILEMILL_KAFKA_PROPERTIES"
_TOPICS = "Run `filemill topics create`, or check the FILEMILL_TOPIC_* settings"
_BROKERS = "Start the brokers that are missing"
_LOG = "The brokers' logs say more"
_VERSION = (
    "filemill needs Kafka 3.9, and 4.2 for share groups; FILEMILL_GROUP_PROTOCOL=classic-cooperative needs the least"
)
_MEMBER = "Check FILEMILL_KAFKA_GROUP and FILEMILL_GROUP_PROTOCOL: all members of a group use the same"
_TOPIC_CONFIG = "Check the topic's configuration: cleanup.policy, message.timestamp.* and max.message.bytes"
_CREATION = "Check FILEMILL_TOPIC_PARTITIONS and FILEMILL_TOPIC_REPLICATION_FACTOR, and the brokers' limits"

RULES: tuple[KafkaErrorRule, ...] = (
    # Not reached, or not now
    *_rows(
        ErrorCategory.TRANSIENT,
        "is away",
        "",
        *("_TRANSPORT", "_ALL_BROKERS_DOWN", "_TIMED_OUT", "_FAIL", "_TIMED_OUT_QUEUE", "_UNKNOWN_BROKER"),
        *("_DESTROY_BROKER", "BROKER_NOT_AVAILABLE", "NETWORK_EXCEPTION", "REQUEST_TIMED_OUT", "REBOOTSTRAP_REQUIRED"),
        passes=True,
    ),
    *_rows(
        ErrorCategory.ACTION_REQUIRED,
        "has a name that cannot be resolved",
        "Check FILEMILL_KAFKA_BROKER",
        "_RESOLVE",
        passes=True,
    ),
    *_rows(ErrorCategory.TRANSIENT, "did not acknowledge in time", "", "_MSG_TIMED_OUT", passes=True),
    *_rows(
        ErrorCategory.TRANSIENT,
        "is choosing leaders, or a broker has just gone",
        "",
        *("LEADER_NOT_AVAILABLE", "NOT_LEADER_FOR_PARTITION", "REPLICA_NOT_AVAILABLE", "FENCED_LEADER_EPOCH"),
        *("UNKNOWN_LEADER_EPOCH", "OFFSET_NOT_AVAILABLE", "PREFERRED_LEADER_NOT_AVAILABLE", "LISTENER_NOT_FOUND"),
        *("ELIGIBLE_LEADERS_NOT_AVAILABLE", "NOT_CONTROLLER", "STALE_CTRL_EPOCH", "STALE_BROKER_EPOCH"),
        *("FETCH_SESSION_ID_NOT_FOUND", "INVALID_FETCH_SESSION_EPOCH", "REASSIGNMENT_IN_PROGRESS"),
        *("UNKNOWN_CONTROLLER_ID", "INVALID_REGISTRATION", "MISMATCHED_ENDPOINT_TYPE", "_NODE_UPDATE", "_RETRY"),
        # _NOENT: an admin request found no leader of its partitions, as while all brokers restart.
        *("_OUTDATED", "_PARTIAL", "_INTR", "_NOENT"),
        passes=True,
    ),
    *_rows(
        ErrorCategory.TRANSIENT,
        "is loading or moving the group's coordinator",
        "",
        *("COORDINATOR_LOAD_IN_PROGRESS", "COORDINATOR_NOT_AVAILABLE", "NOT_COORDINATOR", "_WAIT_COORD", "_WAIT_CACHE"),
        *("UNSTABLE_OFFSET_COMMIT", "_IN_PROGRESS", "_PREV_IN_PROGRESS", "OPERATION_NOT_ATTEMPTED"),
        passes=True,
    ),
    *_rows(ErrorCategory.TRANSIENT, "limits what we may do at a time", "", "THROTTLING_QUOTA_EXCEEDED", passes=True),
    *_rows(ErrorCategory.TRANSIENT, "gets more than it takes: the client's queue is full", "", "_QUEUE_FULL"),
    *_rows(
        ErrorCategory.ACTION_REQUIRED,
        "has too few replicas in sync",
        _BROKERS,
        *("NOT_ENOUGH_REPLICAS", "NOT_ENOUGH_REPLICAS_AFTER_APPEND", "_ISR_INSUFF"),
        passes=True,
    ),
    *_rows(
        ErrorCategory.ACTION_REQUIRED,
        "has trouble with its disk",
        _LOG,
        *("KAFKA_STORAGE_ERROR", "LOG_DIR_NOT_FOUND"),
        passes=True,
    ),
    *_rows(
        ErrorCategory.ACTION_REQUIRED,
        "has trouble of its own",
        _LOG,
        *("UNKNOWN", "FEATURE_UPDATE_FAILED", "PRINCIPAL_DESERIALIZATION_FAILURE", "INVALID_UPDATE_VERSION"),
        *("INCONSISTENT_VOTER_SET", "INVALID_VOTER_KEY", "DUPLICATE_VOTER", "VOTER_NOT_FOUND"),
        *("TOPIC_DELETION_DISABLED", "ELECTION_NOT_NEEDED", "NO_REASSIGNMENT_IN_PROGRESS", "SECURITY_DISABLED"),
    ),
    # Who we are, and what we may
    *_rows(
        ErrorCategory.ACTION_REQUIRED,
        "refuses our credentials",
        _CREDENTIALS,
        *("_AUTHENTICATION", "SASL_AUTHENTICATION_FAILED", "UNSUPPORTED_SASL_MECHANISM", "ILLEGAL_SASL_STATE"),
        *("UNACCEPTABLE_CREDENTIAL", "INVALID_PRINCIPAL_TYPE"),
        *("DELEGATION_TOKEN_AUTH_DISABLED", "DELEGATION_TOKEN_NOT_FOUND", "DELEGATION_TOKEN_OWNER_MISMATCH"),
        *("DELEGATION_TOKEN_REQUEST_NOT_ALLOWED", "DELEGATION_TOKEN_AUTHORIZATION_FAILED", "DELEGATION_TOKEN_EXPIRED"),
        passes=True,
    ),
    *_rows(ErrorCategory.ACTION_REQUIRED, "cannot be spoken to by TLS", _TLS, "_SSL", passes=True),
    *_rows(
        ErrorCategory.ACTION_REQUIRED,
        "does not grant this user what is needed",
        _ACL,
        *("TOPIC_AUTHORIZATION_FAILED", "GROUP_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED"),
        "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
        passes=True,
    ),
    # Topics
    *_rows(
        ErrorCategory.ACTION_REQUIRED,
        "has no such topic or partition",
        _TOPICS,
        *("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION", "UNKNOWN_TOPIC_ID", "INCONSISTENT_TOPIC_ID"),
        passes=True,
    ),
    *_rows(
        ErrorCategory.ACTION_REQUIRED,
        "refuses the topic's name",
        "Check the FILEMILL_TOPIC_* settings",
        "TOPIC_EXCEPTION",
    ),
    *_rows(
        ErrorCategory.ACTION_REQUIRED,
        "refuses to set up the topic so",
        _CREATION,
        *("INVALID_PARTITIONS", "INVALID_REPLICATION_FACTOR", "INVALID_REPLICA_ASSIGNMENT", "INVALID_CONFIG"),
        *("POLICY_VIOLATION", "TOPIC_ALREADY_EXISTS"),
    ),
    *_rows(
        ErrorCategory.TRANSIENT,
        "has other records than were expected: some were removed, or its log was cut",
        "",
        *("OFFSET_OUT_OF_RANGE", "_AUTO_OFFSET_RESET", "_LOG_TRUNCATION", "_NO_OFFSET"),
    ),
    *_rows(ErrorCategory.TRANSIENT, "has no more records", "", "_PARTITION_EOF", passes=True),
    # Records
    *_rows(ErrorCategory.BUG, "", "", "MSG_SIZE_TOO_LARGE", "INVALID_MSG_SIZE", "RECORD_LIST_TOO_LARGE"),
    *_rows(
        ErrorCategory.ACTION_REQUIRED,
        "refuses the record for how its topic is set up",
        _TOPIC_CONFIG,
        *("INVALID_RECORD", "INVALID_TIMESTAMP", "UNSUPPORTED_FOR_MESSAGE_FORMAT", "UNSUPPORTED_COMPRESSION_TYPE"),
    ),
    *_rows(ErrorCategory.TRANSIENT, "refused another record of the same batch", "", "_INVALID_DIFFERENT_RECORD"),
    *_rows(
        ErrorCategory.TRANSIENT,
        "received or sent a damaged record",
        _LOG,
        "INVALID_MSG",
        "_BAD_MSG",
        "_BAD_COMPRESSION",
        "_UNDERFLOW",
    ),
    # The client's own state: a new client, or a new membership, goes on
    *_rows(
        ErrorCategory.TRANSIENT,
        "does not know this producer any more: a new one is made",
        "",
        *("OUT_OF_ORDER_SEQUENCE_NUMBER", "DUPLICATE_SEQUENCE_NUMBER", "UNKNOWN_PRODUCER_ID", "INVALID_PRODUCER_EPOCH"),
        *("PRODUCER_FENCED", "INVALID_PRODUCER_ID_MAPPING", "_GAPLESS_GUARANTEE", "_INCONSISTENT"),
        *("_PURGE_QUEUE", "_PURGE_INFLIGHT", "_DESTROY"),
    ),
    *_rows(
        ErrorCategory.TRANSIENT,
        "made the client give up: a new one is made",
        _LOG,
        "_FATAL",
        "_STATE",
        "_CRIT_SYS_RESOURCE",
        "_FS",
    ),
    *_rows(
        ErrorCategory.TRANSIENT,
        "does not count this member in the group any more",
        "",
        *("UNKNOWN_MEMBER_ID", "ILLEGAL_GENERATION", "REBALANCE_IN_PROGRESS", "STALE_MEMBER_EPOCH"),
        *("FENCED_MEMBER_EPOCH", "MEMBER_ID_REQUIRED", "_ASSIGNMENT_LOST", "INVALID_RECORD_STATE"),
        *(
            "SHARE_SESSION_NOT_FOUND",
            "INVALID_SHARE_SESSION_EPOCH",
            "FENCED_STATE_EPOCH",
            "SHARE_SESSION_LIMIT_REACHED",
        ),
        *("_ASSIGN_PARTITIONS", "_REVOKE_PARTITIONS"),
    ),
    *_rows(
        ErrorCategory.TRANSIENT,
        "put this member out, for it did not poll in time",
        "",
        "_MAX_POLL_EXCEEDED",
        passes=True,
    ),
    *_rows(
        ErrorCategory.ACTION_REQUIRED,
        "has another member of the group under this one's name",
        "Give each worker a FILEMILL_WORKER_ID of its own",
        *("FENCED_INSTANCE_ID", "UNRELEASED_INSTANCE_ID", "_FENCED"),
    ),
    # What the group is, and what the broker can
    *_rows(
        ErrorCategory.ACTION_REQUIRED,
        "refuses this member of the group",
        _MEMBER,
        *("INCONSISTENT_GROUP_PROTOCOL", "INVALID_GROUP_ID", "INVALID_SESSION_TIMEOUT", "GROUP_MAX_SIZE_REACHED"),
        *("UNSUPPORTED_ASSIGNOR", "INVALID_REGULAR_EXPRESSION", "_UNKNOWN_PROTOCOL", "_UNKNOWN_GROUP"),
    ),
    *_rows(
        ErrorCategory.ACTION_REQUIRED,
        "has the group in another state than that needs",
        "Stop its members first, or check FILEMILL_KAFKA_GROUP",
        *("NON_EMPTY_GROUP", "GROUP_ID_NOT_FOUND", "GROUP_SUBSCRIBED_TO_TOPIC"),
    ),
    *_rows(
        ErrorCategory.ACTION_REQUIRED,
        "is too old for what was asked",
        _VERSION,
        *("UNSUPPORTED_VERSION", "_UNSUPPORTED_FEATURE", "UNSUPPORTED_ENDPOINT_TYPE", "_NOT_CONFIGURED"),
    ),
    *_rows(
        ErrorCategory.TRANSIENT,
        "did not take what the client reports of itself",
        "",
        *("UNKNOWN_SUBSCRIPTION_ID", "TELEMETRY_TOO_LARGE"),
        passes=True,
    ),
    # What nothing here should ever ask
    *_rows(
        ErrorCategory.BUG,
        "",
        "",
        *("_INVALID_ARG", "_NOT_IMPLEMENTED", "_INVALID_TYPE", "_READ_ONLY", "_EXISTING_SUBSCRIPTION"),
        *("_CONFLICT", "_APPLICATION", "_NOOP", "_KEY_SERIALIZATION", "_VALUE_SERIALIZATION", "_KEY_DESERIALIZATION"),
        *("_VALUE_DESERIALIZATION", "INVALID_REQUEST", "INVALID_REQUIRED_ACKS", "INVALID_COMMIT_OFFSET_SIZE"),
        *("OFFSET_METADATA_TOO_LARGE", "RESOURCE_NOT_FOUND", "DUPLICATE_RESOURCE", "INVALID_TXN_STATE"),
        *("INVALID_TRANSACTION_TIMEOUT", "CONCURRENT_TRANSACTIONS", "TRANSACTION_COORDINATOR_FENCED"),
        *("TRANSACTION_ABORTABLE", "STREAMS_INVALID_TOPOLOGY", "STREAMS_INVALID_TOPOLOGY_EPOCH"),
        "STREAMS_TOPOLOGY_FENCED",
    ),
)
_BY_CODE = {row.number: row for row in RULES}

# A client that meets one of these goes on by itself, and so does whoever reads with it.
RECOVERED_BY_CLIENT = frozenset(row.number for row in RULES if row.client_recovers)
# No broker will ever take a record of which it is said.
TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE, KafkaError.RECORD_LIST_TOO_LARGE})


def classify(error: KafkaError) -> KafkaErrorRule:
    """The row of an error. A code that is not listed is the broker's trouble."""
    row = _BY_CODE.get(error.code())
    if row is not None:
        return row
    return KafkaErrorRule(
        error.code(), error.name(), ErrorCategory.ACTION_REQUIRED, "answers with an error that is not known here", _LOG
    )
