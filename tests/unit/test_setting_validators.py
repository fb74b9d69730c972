"""Settings that are right each by itself and wrong together are refused, in a sentence that names them."""

import pytest

from filemill.config.settings import InvalidSettings, load


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"heartbeat_interval_ms": 3000}, "heartbeat_interval_ms must be at most a third of session_timeout_ms"),
        ({"drain_seconds": 300}, "drain_seconds must be below max_poll_interval_ms"),
        ({"static_membership": True}, "static_membership needs worker_id"),
        (
            {"static_membership": True, "worker_id": "w", "group_protocol": "share", "processing_seconds": 1},
            "static_membership does not go with group_protocol=share",
        ),
        (
            {"group_protocol": "share", "ordering": "partition", "processing_seconds": 1},
            "ordering=partition does not go with group_protocol=share",
        ),
        (
            {"group_protocol": "share", "processing_seconds": 295},
            "max_poll_interval_ms must be 310000 or more",
        ),
        (
            {"group_protocol": "share", "processing_seconds": 1, "long_job_every": 9, "long_job_seconds": 295},
            "a job of 295 s does not go with group_protocol=share",
        ),
        ({"kafka_properties": {"enable.auto.commit": "true"}}, "kafka_properties must not set enable.auto.commit"),
        ({"kafka_properties": {"auto.offset.reset": "latest"}}, "anything but `earliest` skips requests"),
        ({"kafka_properties": {"acks": "1"}}, "an acknowledged result can be lost"),
        ({"kafka_properties": {"group.id": "mine"}}, "it is the setting kafka_group"),
    ],
)
def test_a_wrong_combination_is_refused_in_a_sentence(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(InvalidSettings, match=sentence):
        load(**given)


def test_what_goes_together_is_taken() -> None:
    assert load(static_membership=True, worker_id="processor-1").static_membership
    assert load(group_protocol="share", processing_seconds=60).group_id == "file-service-group-share"
    assert load(kafka_properties={"security.protocol": "SASL_SSL"}).group_id == "file-service-group"
