"""What the reasons of the account mean, in words, and what mends each."""

from mmray.errors import Reason

WORDS: dict[Reason, tuple[str, str]] = {
    Reason.NO_AUDIO: (
        "there is no sound track",
        "nothing to mend, unless the sound stands in another column (`source`)",
    ),
    Reason.NO_VIDEO: (
        "there are no moving pictures",
        "nothing to mend, unless they stand in another column (`source`)",
    ),
    Reason.NO_IMAGE: ("there is no picture", "nothing to mend, unless it stands in another column (`source`)"),
    Reason.NO_TEXT: ("the text is empty", "fill the column of the manifest, or leave the sample out"),
    Reason.TOO_SHORT: ("it is shorter than the model needs", "nothing to mend, unless the file was cut by mistake"),
    Reason.EMPTY: ("the file, or the stream, holds nothing", "fetch or record the file again"),
    Reason.TRUNCATED: ("it ends before it should", "fetch the file again: a copy or an upload was probably cut off"),
    Reason.CORRUPT: (
        "parts of it cannot be decoded",
        "fetch it again, or convert it once with ffmpeg from the original",
    ),
    Reason.UNSUPPORTED: ("its format is not one that can be decoded", "convert it, to MP4, WAV, JPEG or PNG"),
    Reason.UNREADABLE: (
        "it could not be read",
        "look at the disk or the network, then `mmray retry --reason unreadable`",
    ),
    Reason.TOO_LARGE: ("its pictures have more pixels than are decoded", "scale it down"),
    Reason.TIMEOUT: ("it did not get on for `timeout_s`", "raise `timeout_s`, then `mmray retry --reason timeout`"),
    Reason.OUT_OF_MEMORY: (
        "the model ran out of memory",
        "lower `batch_size` or `segment_s`, then `mmray retry --reason out_of_memory`",
    ),
    Reason.CRASHED: (
        "it killed its process every time",
        "convert it once; or `mmray retry --reason crashed` on a machine with more memory",
    ),
    Reason.UNAVAILABLE: (
        "its storage could not be reached, or failed every time",
        "run the same command again once the storage is back",
    ),
    Reason.MISSING_FILE: ("there is no such file", "put it there, or mend its address in the manifest"),
    Reason.ACCESS_DENIED: (
        "reading it is not allowed",
        "mend its permissions or the credentials, then `mmray retry --reason access_denied`",
    ),
    Reason.QUOTA: ("the store of the medium refused more requests", "wait, then `mmray retry --reason quota`"),
    Reason.BAD_TEXT: ("the text is not whole Unicode", "mend the text in the manifest"),
    Reason.MODEL_ERROR: (
        "the model raised an error on it",
        "read the detail; once mended, `mmray retry --reason model_error`",
    ),
    Reason.NO_SOURCE: (
        "there is nothing for this extractor to read: its column is empty, or what was imported does not have it",
        "nothing to mend, unless the manifest should name something there",
    ),
    Reason.SOURCE_FAILED: ("what it reads has failed itself", "mend that first: the next run does this one too"),
}
