"""A real S3-compatible server on loopback, for tests."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.common import storage
from harness.common.storage import Address, as_location, write_bytes


@contextmanager
def serving(bucket: str) -> Iterator[str]:
    """Serve an empty bucket; the environment says how it is reached, here and in processes that are started."""
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line on stderr for every request
    server.start()
    try:
        host, port = server.get_host_and_port()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (
                ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
                ("AWS_ACCESS_KEY_ID", "somebody"),
                ("AWS_SECRET_ACCESS_KEY", "nothing"),
                ("AWS_REGION", "us-east-1"),
                ("AWS_EC2_METADATA_DISABLED", "true"),
            ):
                patch.setenv(name, value)
            boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=bucket)
            storage._opened.cache_clear()  # another server may have had the bucket's name
            yield f"s3://{bucket}"
    finally:
        server.stop()


def uploaded(folder: Path, where: str) -> Address:
    """Copy a folder to an address."""
    target = as_location(where)
    assert isinstance(target, Address)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        write_bytes(target / file.relative_to(folder).as_posix(), file.read_bytes())
    return target
