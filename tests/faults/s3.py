"""An S3 server of its own, behind a proxy whose faults a test switches, and a Ray whose workers know it."""

import os
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

from mmray import storage
from tests.faults import corpus
from tests.faults.harness import Head
from tests.faults.proxy import FaultProxy


class S3:
    """moto, the proxy in front of it, and the cluster that works with it."""

    def __init__(self, folder: Path, media: Path, seed: int) -> None:
        self._folder, self._media = folder, media
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self._log = (folder / "moto.log").open("w")
        self._server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=self._log,
            stderr=self._log,
        )
        self._wait(port)
        self.proxy = FaultProxy(f"http://127.0.0.1:{port}", seed)
        self.environment = {
            "AWS_ACCESS_KEY_ID": "AKIAMMRAYTEST",
            "AWS_SECRET_ACCESS_KEY": "mmraytestsecret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.proxy.endpoint,
        }
        self._before = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)  # this process looks into stores, too
        self.head = Head(environment=self.environment)
        self._manifests: dict[str, str] = {}

    def _wait(self, port: int) -> None:
        for _ in range(600):
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1):
                    return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("moto does not start")

    def bucket(self, name: str) -> str:
        """Make a bucket, where there is none; returns its URL."""
        import s3fs

        system = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
        if not system.exists(name):
            system.mkdir(name)
        return f"s3://{name}"

    def manifest(self, bucket: str) -> str:
        """Return the manifest of the corpus in a bucket."""
        if bucket not in self._manifests:
            url = self.bucket(bucket)
            for path in sorted(self._media.iterdir()):
                storage.put(f"{url}/{path.name}", path.read_bytes())
            self._manifests[bucket] = corpus.manifest_of(url, self._folder / f"{bucket}.parquet")
        return self._manifests[bucket]

    def new_store(self, bucket: str) -> str:
        """Return the URL of a store that does not exist yet."""
        return f"{self.bucket(bucket)}/store-{uuid.uuid4().hex[:8]}"

    def close(self) -> None:
        """Stop everything."""
        self.head.close()
        self.proxy.close()
        self._server.terminate()
        self._server.wait()
        self._log.close()
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
