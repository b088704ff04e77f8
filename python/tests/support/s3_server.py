# SPDX-License-Identifier: Apache-2.0
"""Serves S3 on loopback in a process of its own: moto, which checks every request's signature.

Run as a script it makes a bucket and a user who may use it, says where and with which key as one
line of JSON, and serves until its standard input is closed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BUCKET = "tables"
REGION = "us-east-1"
URI = f"s3://{BUCKET}/db"


@dataclass(frozen=True)
class S3:
    """A bucket, and the key that opens it."""

    endpoint: str
    key: str
    secret: str

    @property
    def address(self) -> dict[str, str]:
        """What to tell lancedb but for the key."""
        return {"endpoint": self.endpoint, "allow_http": "true", "region": REGION}

    @property
    def storage_options(self) -> dict[str, str]:
        """All that lancedb has to be told."""
        return {
            **self.address,
            "aws_access_key_id": self.key,
            "aws_secret_access_key": self.secret,
        }


class SecretFile:
    """A connection factory that reads its credentials where it is called."""

    def __init__(self, path: Path):
        self.path = path

    def __call__(self, name: str) -> Any:
        import lancedb

        options = json.loads(self.path.read_text())
        return lancedb.connect(URI, storage_options=options).open_table(name)


@contextlib.contextmanager
def serving() -> Iterator[S3]:
    """Start the server; it goes when the block is left, or when this process dies."""
    command = [sys.executable, __file__]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        yield S3(**json.loads(process.stdout.readline()))
        assert process.stdin is not None
        process.stdin.close()


def main() -> None:
    import boto3
    from moto import settings
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    options = {
        "endpoint_url": endpoint,
        "region_name": REGION,
        "aws_access_key_id": "none",
        "aws_secret_access_key": "none",
    }
    boto3.client("s3", **options).create_bucket(Bucket=BUCKET)
    iam = boto3.client("iam", **options)
    iam.create_user(UserName="trainer")
    may = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [may]})
    iam.put_user_policy(UserName="trainer", PolicyName="all", PolicyDocument=policy)
    key = iam.create_access_key(UserName="trainer")["AccessKey"]
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0  # from now on every signature is checked
    s3 = {"endpoint": endpoint, "key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}
    print(json.dumps(s3), flush=True)
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
