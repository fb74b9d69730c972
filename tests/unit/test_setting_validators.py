"""Combinations of settings, each valid by itself, that are invalid together."""

import pytest

from filemill.config.settings import InvalidSettings, load

SHARE = {"group_protocol": "share", "processing_seconds": 1}


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        ({"heartbeat_interval_ms": 3000}, "heartbeat_interval_too_long", "at most a third of session_timeout_ms"),
        ({"drain_seconds": 300}, "drain_too_long", "drain_seconds must be below max_poll_interval_ms"),
        ({"static_membership": True}, "static_membership_without_worker_id", "static_membership needs worker_id"),
        (
            {**SHARE, "static_membership": True, "worker_id": "w"},
            "static_membership_in_share_group",
            "static_membership does not work with group_protocol=share",
        ),
        (
            {**SHARE, "ordering": "partition"},
            "ordering_in_share_group",
            "ordering=partition does not work with group_protocol=share",
        ),
        (
            {**SHARE, "processing_seconds": 295},
            "job_too_long_for_share_group",
            "max_poll_interval_ms must be 310000 or more",
        ),
        (
            {**SHARE, "long_job_every": 9, "long_job_seconds": 295},
            "job_too_long_for_share_group",
            "a job of 295 s does not work with group_protocol=share",
        ),
        ({"database_sslmode": "verify-ca"}, "ca_bundle_missing", "needs database_ca_bundle"),
        ({"database_superuser_user": "admin"}, "database_roles_missing", "needs database_owner_user"),
        (
            {"kafka_properties": {"enable.auto.commit": "true"}},
            "kafka_property_reserved",
            "kafka_properties must not set enable.auto.commit",
        ),
        (
            {"kafka_properties": {"auto.offset.reset": "latest"}},
            "kafka_property_reserved",
            "any value but `earliest` skips requests",
        ),
        (
            {"kafka_properties": {"acks": "1"}},
            "kafka_property_reserved",
            "an acknowledged result can be lost",
        ),
        ({"kafka_properties": {"group.id": "mine"}}, "kafka_property_reserved", "it is the setting kafka_group"),
    ],
)
def test_an_invalid_combination_has_a_code_and_a_message(given: dict[str, object], code: str, message: str) -> None:
    with pytest.raises(InvalidSettings, match=message) as caught:
        load(**given)
    assert caught.value.codes == (code,)


def test_valid_combinations_are_accepted() -> None:
    assert load(static_membership=True, worker_id="processor-1").static_membership
    assert load(group_protocol="share", processing_seconds=60).group_id == "file-service-group-share"
    assert load(kafka_properties={"security.protocol": "SASL_SSL"}).group_id == "file-service-group"
