"""Remote files through fsspec: file systems that leave retries to mmray, reading in blocks, writing in one step."""
