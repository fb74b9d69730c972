"""The bucket by boto3: missing objects, refused keys and unexpected answers, each by its own error."""

from typing import Any

import pytest
from botocore.exceptions import ClientError

from filemill.adapters.s3.bucket import Bucket
from filemill.adapters.s3.errors import S3ErrorCode
from filemill.config.settings import Settings, load
from filemill.entrypoints import bootstrap
from filemill.errors import NotFound, Unavailable


def test_an_object_is_read_in_part_listed_and_deleted(contract_settings: Settings) -> None:
    bucket = bootstrap.bucket(contract_settings)
    bucket.create()
    assert bucket.exists()
    client = bootstrap.s3_client(contract_settings)
    client.put_object(Bucket=contract_settings.s3_bucket, Key="bucket-test", Body=b"12345")
    assert bucket.read("bucket-test") == b"12345"
    assert bucket.read("bucket-test", 2) == b"12"
    assert "bucket-test" in [one.key for page in bucket.list() for one in page]
    bucket.delete("bucket-test")
    bucket.delete("bucket-test")
    with pytest.raises(NotFound):
        bucket.read("bucket-test")


class RefusingClient:
    """An S3 client whose service answers with a code that a correct request never gets."""

    def get_object(self, **_given: Any) -> None:
        answer = {"Error": {"Code": "InvalidDigest"}, "ResponseMetadata": {"HTTPStatusCode": 400, "HTTPHeaders": {}}}
        raise ClientError(answer, "GetObject")  # type: ignore[arg-type]

    delete_object = get_object


def test_an_unexpected_answer_is_unavailable_with_a_code() -> None:
    bucket = Bucket(load(), RefusingClient())  # type: ignore[arg-type]
    for act in (bucket.read, bucket.delete):
        with pytest.raises(Unavailable) as unavailable:
            act("a key")
        assert unavailable.value.code is S3ErrorCode.BUG
