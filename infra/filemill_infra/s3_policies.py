"""What each role may do in S3: policies and identities in SeaweedFS's file for `-s3.config`.

A role has what it calls and nothing else. A processor, for example, cannot delete results or list the bucket.
"""

import enum
import json
from collections.abc import Mapping

import msgspec


class S3Role(enum.StrEnum):
    """A part of a deployment with its own S3 keys. The relay and the monitor use no S3."""

    SETUP = "setup"
    DASHBOARD = "dashboard"
    PROCESSOR = "processor"
    SYNC = "sync"


class S3Key(msgspec.Struct, frozen=True):
    """The credentials of a role."""

    access_key_id: str
    secret_access_key: str


# Actions on the bucket, and actions on objects by the pattern of their keys.
_ON_BUCKET: Mapping[S3Role, tuple[str, ...]] = {
    S3Role.SETUP: ("CreateBucket", "ListBucket"),
    # `filemill verify`, `orphans` and `objects clean` run in its container.
    S3Role.DASHBOARD: ("ListBucket", "ListBucketMultipartUploads"),
}
_ON_OBJECTS: Mapping[S3Role, Mapping[str, tuple[str, ...]]] = {
    # It writes and deletes one object in a new bucket.
    S3Role.SETUP: {"filemill-first-object": ("PutObject", "DeleteObject")},
    S3Role.DASHBOARD: {"*": ("GetObject", "DeleteObject", "AbortMultipartUpload")},
    S3Role.PROCESSOR: {
        "*": ("GetObject", "PutObject", "AbortMultipartUpload"),
        "file-*.checkpoint": ("DeleteObject",),
    },
    # Hashes of objects that other file services wrote.
    S3Role.SYNC: {"*": ("GetObject",)},
}


def policy(role: S3Role, bucket: str) -> dict[str, object]:
    """The policy of a role, in the form of AWS. Everything else is denied."""
    arn = f"arn:aws:s3:::{bucket}"
    granted = {arn: _ON_BUCKET.get(role, ())} | {f"{arn}/{keys}": on for keys, on in _ON_OBJECTS[role].items()}
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": [f"s3:{action}" for action in actions], "Resource": [resource]}
            for resource, actions in granted.items()
            if actions
        ],
    }


def identities(keys: Mapping[S3Role, S3Key], bucket: str) -> bytes:
    """The identities with their policies, for `weed … -s3.config`. It contains the secret keys."""
    document = {
        "identities": [
            {
                "name": role.value,
                "credentials": [{"accessKey": key.access_key_id, "secretKey": key.secret_access_key}],
                "policyNames": [role.value],
            }
            for role, key in keys.items()
        ],
        "policies": [{"name": role.value, "content": json.dumps(policy(role, bucket))} for role in keys],
    }
    return json.dumps(document, indent=1).encode()
