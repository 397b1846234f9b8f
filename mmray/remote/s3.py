"""S3 with one place for retries: every request, be it a page of a listing, is tried again by the rules of mmray."""

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

from botocore.exceptions import ClientError
from fsspec.asyn import sync_wrapper
from s3fs import S3FileSystem
from s3fs.errors import translate_boto_error

from mmray.remote.systems import Part
from mmray.retries import Attempts, ShortReadError, UnavailableError, described

CHANGED = 412  # Precondition Failed
NO_SUCH_RANGE = 416
KEYS = 1000  # most that one request deletes


class S3(S3FileSystem):  # type: ignore[misc]
    """The file system; it expects a client that does not retry by itself."""

    async def _call_s3(self, method: str, *more: Any, **arguments: Any) -> Any:
        attempts = Attempts(f"s3://{arguments.get('Bucket', '')}/{arguments.get('Key', '')}")
        # A lost response of a conditional write looks like another writer's success: its caller tells them apart.
        conditional = method != "get_object" and not {"IfMatch", "IfNoneMatch"}.isdisjoint(arguments)
        while True:
            try:
                response = await self._once(method, *more, **arguments)
            except Exception as error:
                translated = translate_boto_error(error)
                if conditional or not described(translated).passing:
                    if translated is error:
                        raise
                    raise translated from error
                wait_s = attempts.wait_s(translated)
            else:
                attempts.succeeded()
                return response
            await asyncio.sleep(wait_s)

    call_s3 = sync_wrapper(_call_s3)

    async def _once(self, method: str, *more: Any, **arguments: Any) -> Any:
        await self.set_session()
        client = await self.get_s3(arguments.get("Bucket"))
        call = getattr(client, method)
        return await call(**self._get_s3_method_kwargs(call, *more, **arguments))

    async def read_part(self, path: str, start: int, end: int, tag: str | None) -> Part:
        """Return a part of an object, by one request that is not retried."""
        bucket, key, _ = self.split_path(path)
        condition = {"IfMatch": tag} if tag else {}
        try:
            response = await self._once(
                "get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{end - 1}", **condition
            )
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status == NO_SUCH_RANGE and start == 0:
                return Part(b"", 0, None)
            if status == CHANGED:
                raise UnavailableError(f"s3://{path}: has changed while it was read") from error
            raise translate_boto_error(error) from error
        try:
            data = await response["Body"].read()
        finally:
            response["Body"].close()
        size = int(response.get("ContentRange", "").rpartition("/")[2] or len(data))  # old servers send all of it
        if len(data) != min(end, size) - start:
            raise ShortReadError(f"{len(data)} bytes of {min(end, size) - start}")
        return Part(data, size, response.get("ETag"))

    async def _delete_keys(self, paths: Sequence[str]) -> None:
        """Delete objects, up to 1000 by a request; one that is not there is no error."""
        for first in range(0, len(paths), KEYS):
            split = [self.split_path(path) for path in paths[first : first + KEYS]]
            for bucket in dict.fromkeys(bucket for bucket, _, _ in split):
                keys = [{"Key": key} for key_bucket, key, _ in split if key_bucket == bucket]
                response = await self._call_s3("delete_objects", Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
                for problem in response.get("Errors", []):
                    denied = problem.get("Code") == "AccessDenied"
                    words = f"s3://{bucket}/{problem.get('Key')}: {problem.get('Code')}: {problem.get('Message')}"
                    raise PermissionError(words) if denied else ConnectionError(words)

    delete_keys = sync_wrapper(_delete_keys)

    def holds(self, path: str, parts: Sequence[dict[str, Any]]) -> bool:
        """Tell whether an object consists of just these parts: its upload was completed and the response was lost."""
        digest = hashlib.md5(usedforsecurity=False)
        for part in parts:
            digest.update(bytes.fromhex(part["ETag"].strip('"')))
        return str(self.info(path)["ETag"]).strip('"') == f"{digest.hexdigest()}-{len(parts)}"
