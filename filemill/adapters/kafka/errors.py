"""What each error code of Kafka means: the broker's codes (positive) and librdkafka's own (negative).

Which of the broker's errors are transient follows Kafka's protocol guide ("Error codes", column "Retriable").
librdkafka retries most of those before it reports them.
"""

from collections.abc import Iterator
from enum import StrEnum

import msgspec
from confluent_kafka import KafkaError

from filemill.adapters.errors import ErrorCategory


class KafkaErrorCode(StrEnum):
    """The machine-readable code of an `Unavailable` that Kafka caused."""

    UNREACHABLE = "kafka-unreachable"
    NAME_NOT_RESOLVED = "kafka-name-not-resolved"
    NOT_ACKNOWLEDGED = "kafka-not-acknowledged"
    LEADER_ELECTION = "kafka-leader-election"
    COORDINATOR_LOADING = "kafka-coordinator-loading"
    QUOTA_EXCEEDED = "kafka-quota-exceeded"
    QUEUE_FULL = "kafka-queue-full"
    TOO_FEW_REPLICAS = "kafka-too-few-replicas"
    STORAGE = "kafka-storage"
    INTERNAL = "kafka-internal"
    AUTHENTICATION = "kafka-authentication"
    TLS = "kafka-tls"
    AUTHORIZATION = "kafka-authorization"
    UNKNOWN_TOPIC = "kafka-unknown-topic"
    INVALID_TOPIC_NAME = "kafka-invalid-topic-name"
    INVALID_TOPIC_CONFIG = "kafka-invalid-topic-config"
    OFFSET_OUT_OF_RANGE = "kafka-offset-out-of-range"
    END_OF_PARTITION = "kafka-end-of-partition"
    INVALID_RECORD = "kafka-invalid-record"
    BATCH_REJECTED = "kafka-batch-rejected"
    CORRUPT_RECORD = "kafka-corrupt-record"
    PRODUCER_FENCED = "kafka-producer-fenced"
    CLIENT_FAILED = "kafka-client-failed"
    MEMBER_EXPELLED = "kafka-member-expelled"
    POLL_TIMEOUT = "kafka-poll-timeout"
    INSTANCE_FENCED = "kafka-instance-fenced"
    MEMBER_REJECTED = "kafka-member-rejected"
    GROUP_STATE = "kafka-group-state"
    UNSUPPORTED_VERSION = "kafka-unsupported-version"
    TELEMETRY = "kafka-telemetry"
    BUG = "kafka-bug"
    UNKNOWN = "kafka-unknown-error"


class KafkaErrorRule(msgspec.Struct, frozen=True):
    """What one of Kafka's error numbers means.

    `problem` follows "Kafka at ADDRESS" in a sentence, `advice` is a sentence for whoever runs the brokers.
    `client_recovers`: the client recovers without help, so its user keeps it.
    """

    number: int
    name: str
    code: KafkaErrorCode
    category: ErrorCategory
    problem: str = ""
    advice: str = ""
    client_recovers: bool = False


_Code = KafkaErrorCode


def _action(
    code: KafkaErrorCode, problem: str, advice: str, names: str, *, client_recovers: bool = False
) -> Iterator[KafkaErrorRule]:
    return _rules(code, ErrorCategory.ACTION_REQUIRED, problem, advice, names, client_recovers=client_recovers)


def _transient(
    code: KafkaErrorCode, problem: str, names: str, *, advice: str = "", client_recovers: bool = False
) -> Iterator[KafkaErrorRule]:
    return _rules(code, ErrorCategory.TRANSIENT, problem, advice, names, client_recovers=client_recovers)


def _bug(names: str) -> Iterator[KafkaErrorRule]:
    return _rules(KafkaErrorCode.BUG, ErrorCategory.BUG, "", "", names, client_recovers=False)


def _rules(
    code: KafkaErrorCode, category: ErrorCategory, problem: str, advice: str, names: str, *, client_recovers: bool
) -> Iterator[KafkaErrorRule]:
    """One rule for each of the names, which are those of KafkaError, separated by spaces."""
    for name in names.split():
        yield KafkaErrorRule(getattr(KafkaError, name), name, code, category, problem, advice, client_recovers)


_ACL = "Grant it to this user (kafka-acls), or check FILEMILL_KAFKA_USER"
_CREDENTIALS = "Check FILEMILL_KAFKA_SECURITY, _USER and _PASSWORD (or sasl.* in FILEMILL_KAFKA_PROPERTIES)"
_TLS = "Check FILEMILL_KAFKA_SECURITY and FILEMILL_KAFKA_CA_BUNDLE (or ssl.* in FILEMILL_KAFKA_PROPERTIES)"
_TOPICS = "Run `filemill topics create`, or check the FILEMILL_TOPIC_* settings"
_BROKERS = "Start the missing brokers"
_LOG = "See the brokers' logs"
_VERSION = (
    "filemill needs Kafka 3.9, and 4.2 for share groups; FILEMILL_GROUP_PROTOCOL=classic-cooperative needs the oldest"
)
_MEMBER = "Check FILEMILL_KAFKA_GROUP and FILEMILL_GROUP_PROTOCOL: all members of a group use the same"
_TOPIC_CONFIG = "Check the topic's configuration: cleanup.policy, message.timestamp.* and max.message.bytes"
_CREATION = "Check FILEMILL_TOPIC_PARTITIONS and FILEMILL_TOPIC_REPLICATION_FACTOR, and the brokers' limits"

RULES: tuple[KafkaErrorRule, ...] = (
    # Unreachable, or temporarily not ready
    *_transient(
        _Code.UNREACHABLE,
        "is unreachable",
        "_TRANSPORT _ALL_BROKERS_DOWN _TIMED_OUT _FAIL _TIMED_OUT_QUEUE _UNKNOWN_BROKER _DESTROY_BROKER "
        "BROKER_NOT_AVAILABLE NETWORK_EXCEPTION REQUEST_TIMED_OUT REBOOTSTRAP_REQUIRED",
        client_recovers=True,
    ),
    *_action(
        _Code.NAME_NOT_RESOLVED,
        "has a name that cannot be resolved",
        "Check FILEMILL_KAFKA_BROKER",
        "_RESOLVE",
        client_recovers=True,
    ),
    *_transient(_Code.NOT_ACKNOWLEDGED, "did not acknowledge in time", "_MSG_TIMED_OUT", client_recovers=True),
    # _NOENT: an admin request found no leader of its partitions, for example while all brokers restart.
    *_transient(
        _Code.LEADER_ELECTION,
        "is electing leaders, or a broker has just stopped",
        "LEADER_NOT_AVAILABLE NOT_LEADER_FOR_PARTITION REPLICA_NOT_AVAILABLE FENCED_LEADER_EPOCH "
        "UNKNOWN_LEADER_EPOCH OFFSET_NOT_AVAILABLE PREFERRED_LEADER_NOT_AVAILABLE LISTENER_NOT_FOUND "
        "ELIGIBLE_LEADERS_NOT_AVAILABLE NOT_CONTROLLER STALE_CTRL_EPOCH STALE_BROKER_EPOCH "
        "FETCH_SESSION_ID_NOT_FOUND INVALID_FETCH_SESSION_EPOCH REASSIGNMENT_IN_PROGRESS "
        "UNKNOWN_CONTROLLER_ID INVALID_REGISTRATION MISMATCHED_ENDPOINT_TYPE _NODE_UPDATE _RETRY _OUTDATED "
        "_PARTIAL _INTR _NOENT",
        client_recovers=True,
    ),
    *_transient(
        _Code.COORDINATOR_LOADING,
        "is loading or moving the group's coordinator",
        "COORDINATOR_LOAD_IN_PROGRESS COORDINATOR_NOT_AVAILABLE NOT_COORDINATOR _WAIT_COORD _WAIT_CACHE "
        "UNSTABLE_OFFSET_COMMIT _IN_PROGRESS _PREV_IN_PROGRESS OPERATION_NOT_ATTEMPTED",
        client_recovers=True,
    ),
    *_transient(
        _Code.QUOTA_EXCEEDED, "throttles this client by a quota", "THROTTLING_QUOTA_EXCEEDED", client_recovers=True
    ),
    *_transient(_Code.QUEUE_FULL, "accepts records too slowly: the client's queue is full", "_QUEUE_FULL"),
    *_action(
        _Code.TOO_FEW_REPLICAS,
        "has too few replicas in sync",
        _BROKERS,
        "NOT_ENOUGH_REPLICAS NOT_ENOUGH_REPLICAS_AFTER_APPEND _ISR_INSUFF",
        client_recovers=True,
    ),
    *_action(
        _Code.STORAGE, "reports a disk error", _LOG, "KAFKA_STORAGE_ERROR LOG_DIR_NOT_FOUND", client_recovers=True
    ),
    *_action(
        _Code.INTERNAL,
        "reports an internal error",
        _LOG,
        "UNKNOWN FEATURE_UPDATE_FAILED PRINCIPAL_DESERIALIZATION_FAILURE INVALID_UPDATE_VERSION "
        "INCONSISTENT_VOTER_SET INVALID_VOTER_KEY DUPLICATE_VOTER VOTER_NOT_FOUND TOPIC_DELETION_DISABLED "
        "ELECTION_NOT_NEEDED NO_REASSIGNMENT_IN_PROGRESS SECURITY_DISABLED",
    ),
    # Authentication and authorization
    *_action(
        _Code.AUTHENTICATION,
        "rejects our credentials",
        _CREDENTIALS,
        "_AUTHENTICATION SASL_AUTHENTICATION_FAILED UNSUPPORTED_SASL_MECHANISM ILLEGAL_SASL_STATE "
        "UNACCEPTABLE_CREDENTIAL INVALID_PRINCIPAL_TYPE DELEGATION_TOKEN_AUTH_DISABLED "
        "DELEGATION_TOKEN_NOT_FOUND DELEGATION_TOKEN_OWNER_MISMATCH DELEGATION_TOKEN_REQUEST_NOT_ALLOWED "
        "DELEGATION_TOKEN_AUTHORIZATION_FAILED DELEGATION_TOKEN_EXPIRED",
        client_recovers=True,
    ),
    *_action(_Code.TLS, "fails the TLS handshake", _TLS, "_SSL", client_recovers=True),
    *_action(
        _Code.AUTHORIZATION,
        "does not grant this user the required rights",
        _ACL,
        "TOPIC_AUTHORIZATION_FAILED GROUP_AUTHORIZATION_FAILED CLUSTER_AUTHORIZATION_FAILED "
        "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
        client_recovers=True,
    ),
    # Topics
    *_action(
        _Code.UNKNOWN_TOPIC,
        "has no such topic or partition",
        _TOPICS,
        "UNKNOWN_TOPIC_OR_PART _UNKNOWN_TOPIC _UNKNOWN_PARTITION UNKNOWN_TOPIC_ID INCONSISTENT_TOPIC_ID",
        client_recovers=True,
    ),
    *_action(
        _Code.INVALID_TOPIC_NAME, "rejects the topic's name", "Check the FILEMILL_TOPIC_* settings", "TOPIC_EXCEPTION"
    ),
    *_action(
        _Code.INVALID_TOPIC_CONFIG,
        "rejects the topic's configuration",
        _CREATION,
        "INVALID_PARTITIONS INVALID_REPLICATION_FACTOR INVALID_REPLICA_ASSIGNMENT INVALID_CONFIG "
        "POLICY_VIOLATION TOPIC_ALREADY_EXISTS",
    ),
    *_transient(
        _Code.OFFSET_OUT_OF_RANGE,
        "does not have the requested offset: records were removed, or the log was truncated",
        "OFFSET_OUT_OF_RANGE _AUTO_OFFSET_RESET _LOG_TRUNCATION _NO_OFFSET",
    ),
    *_transient(_Code.END_OF_PARTITION, "has no more records", "_PARTITION_EOF", client_recovers=True),
    # Records
    *_bug("MSG_SIZE_TOO_LARGE INVALID_MSG_SIZE RECORD_LIST_TOO_LARGE"),
    *_action(
        _Code.INVALID_RECORD,
        "rejects the record because of the topic's configuration",
        _TOPIC_CONFIG,
        "INVALID_RECORD INVALID_TIMESTAMP UNSUPPORTED_FOR_MESSAGE_FORMAT UNSUPPORTED_COMPRESSION_TYPE",
    ),
    *_transient(_Code.BATCH_REJECTED, "rejected another record of the same batch", "_INVALID_DIFFERENT_RECORD"),
    *_transient(
        _Code.CORRUPT_RECORD,
        "received or sent a corrupt record",
        "INVALID_MSG _BAD_MSG _BAD_COMPRESSION _UNDERFLOW",
        advice=_LOG,
    ),
    # The client's own state: a new client or a new membership recovers
    *_transient(
        _Code.PRODUCER_FENCED,
        "no longer knows this producer, which is replaced",
        "OUT_OF_ORDER_SEQUENCE_NUMBER DUPLICATE_SEQUENCE_NUMBER UNKNOWN_PRODUCER_ID INVALID_PRODUCER_EPOCH "
        "PRODUCER_FENCED INVALID_PRODUCER_ID_MAPPING _GAPLESS_GUARANTEE _INCONSISTENT _PURGE_QUEUE "
        "_PURGE_INFLIGHT _DESTROY",
    ),
    *_transient(
        _Code.CLIENT_FAILED,
        "caused a fatal error in the client, which is replaced",
        "_FATAL _STATE _CRIT_SYS_RESOURCE _FS",
        advice=_LOG,
    ),
    *_transient(
        _Code.MEMBER_EXPELLED,
        "no longer has this member in the group",
        "UNKNOWN_MEMBER_ID ILLEGAL_GENERATION REBALANCE_IN_PROGRESS STALE_MEMBER_EPOCH FENCED_MEMBER_EPOCH "
        "MEMBER_ID_REQUIRED _ASSIGNMENT_LOST INVALID_RECORD_STATE SHARE_SESSION_NOT_FOUND "
        "INVALID_SHARE_SESSION_EPOCH FENCED_STATE_EPOCH SHARE_SESSION_LIMIT_REACHED _ASSIGN_PARTITIONS "
        "_REVOKE_PARTITIONS",
    ),
    *_transient(
        _Code.POLL_TIMEOUT,
        "expelled this member because it did not poll in time",
        "_MAX_POLL_EXCEEDED",
        client_recovers=True,
    ),
    *_action(
        _Code.INSTANCE_FENCED,
        "has another member with the same name in the group",
        "Give each worker a FILEMILL_WORKER_ID of its own",
        "FENCED_INSTANCE_ID UNRELEASED_INSTANCE_ID _FENCED",
    ),
    # The group's configuration and the broker's version
    *_action(
        _Code.MEMBER_REJECTED,
        "rejects this member of the group",
        _MEMBER,
        "INCONSISTENT_GROUP_PROTOCOL INVALID_GROUP_ID INVALID_SESSION_TIMEOUT GROUP_MAX_SIZE_REACHED "
        "UNSUPPORTED_ASSIGNOR INVALID_REGULAR_EXPRESSION _UNKNOWN_PROTOCOL _UNKNOWN_GROUP",
    ),
    *_action(
        _Code.GROUP_STATE,
        "has the group in a state that does not allow the request",
        "Stop its members first, or check FILEMILL_KAFKA_GROUP",
        "NON_EMPTY_GROUP GROUP_ID_NOT_FOUND GROUP_SUBSCRIBED_TO_TOPIC",
    ),
    *_action(
        _Code.UNSUPPORTED_VERSION,
        "is too old for the request",
        _VERSION,
        "UNSUPPORTED_VERSION _UNSUPPORTED_FEATURE UNSUPPORTED_ENDPOINT_TYPE _NOT_CONFIGURED",
    ),
    *_transient(
        _Code.TELEMETRY,
        "did not accept the client's telemetry",
        "UNKNOWN_SUBSCRIPTION_ID TELEMETRY_TOO_LARGE",
        client_recovers=True,
    ),
    # Requests that filemill never sends
    *_bug(
        "_INVALID_ARG _NOT_IMPLEMENTED _INVALID_TYPE _READ_ONLY _EXISTING_SUBSCRIPTION _CONFLICT _APPLICATION "
        "_NOOP _KEY_SERIALIZATION _VALUE_SERIALIZATION _KEY_DESERIALIZATION _VALUE_DESERIALIZATION "
        "INVALID_REQUEST INVALID_REQUIRED_ACKS INVALID_COMMIT_OFFSET_SIZE OFFSET_METADATA_TOO_LARGE "
        "RESOURCE_NOT_FOUND DUPLICATE_RESOURCE INVALID_TXN_STATE INVALID_TRANSACTION_TIMEOUT "
        "CONCURRENT_TRANSACTIONS TRANSACTION_COORDINATOR_FENCED TRANSACTION_ABORTABLE "
        "STREAMS_INVALID_TOPOLOGY STREAMS_INVALID_TOPOLOGY_EPOCH STREAMS_TOPOLOGY_FENCED"
    ),
)
_BY_NUMBER = {rule.number: rule for rule in RULES}

# The client recovers from these errors without help, so its user keeps it.
RECOVERED_BY_CLIENT = frozenset(rule.number for rule in RULES if rule.client_recovers)
# The broker never accepts a record that causes one of these.
TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE, KafkaError.RECORD_LIST_TOO_LARGE})


def classify(error: KafkaError) -> KafkaErrorRule:
    """The rule of an error. An error number without a rule counts as a broker's internal error."""
    rule = _BY_NUMBER.get(error.code())
    if rule is not None:
        return rule
    return KafkaErrorRule(
        error.code(),
        error.name(),
        KafkaErrorCode.UNKNOWN,
        ErrorCategory.ACTION_REQUIRED,
        "reports an unknown error",
        _LOG,
    )
