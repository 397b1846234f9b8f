"""What pictures look like, on 32 x 32 pixels: black, frozen, or standing for the others."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mmray.media.picture import Image

THUMBNAIL_PX = 32


class Look:
    """Black and frozen pictures, seen on at most 32 x 32 pixels of each emitted frame.

    Black: every frame has a mean below 20 of 255 and 99 % of its values below 32 (limited-range black with noise).
    Frozen: at least two different frames, and all differ from the first by less than 0.5 grey levels in the mean.
    """

    def __init__(self) -> None:
        self.black: bool | None = None
        self.frozen: bool | None = None
        self._first: tuple[npt.NDArray[np.int16], float] | None = None

    def see(self, content: Image, time_s: float) -> None:
        """Look at an emitted picture, uint8 (height, width, 3) without padding."""
        if self.black is False and self.frozen is False:
            return
        rows, columns = (-(-length // THUMBNAIL_PX) for length in content.shape[:2])
        small = content[::rows, ::columns].astype(np.int16)
        if self.black is not False:
            self.black = bool(small.mean() < 20 and np.count_nonzero(small >= 32) <= 0.01 * small.size)
        if self._first is None:
            self._first = small, time_s
        elif time_s != self._first[1] and self.frozen is not False:
            same = small.shape == self._first[0].shape
            self.frozen = bool(same and np.abs(small - self._first[0]).mean() < 0.5)


def thumbnail(content: Image) -> npt.NDArray[np.float32]:
    """Return 32 x 32 RGB, flat, each pixel the mean of its part of the picture."""
    for axis in (0, 1):
        edges = np.arange(THUMBNAIL_PX) * content.shape[axis] // THUMBNAIL_PX
        counts = np.diff(np.append(edges, content.shape[axis])).clip(1)
        sums = np.add.reduceat(content.astype(np.float32), edges, axis=axis)
        content = sums / counts.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    return content.astype(np.float32).ravel()


def representatives(thumbnails: Sequence[npt.NDArray[np.float32]], count: int) -> list[int]:
    """Return ``count`` indices in ascending order: the pictures nearest to the k-means centres.

    Where fewer pictures differ, all that differ are taken and the last is repeated.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    points = np.stack(thumbnails)
    _, distinct = np.unique(points, axis=0, return_index=True)
    if len(distinct) > count:
        # One thread: sums in another order would choose other frames.
        with threadpool_limits(limits=1):
            centres = KMeans(n_clusters=count, n_init=1, random_state=0).fit(points[np.sort(distinct)]).cluster_centers_
        distinct = np.unique([((points - centre) ** 2).sum(axis=1).argmin() for centre in centres])
    chosen = sorted(int(index) for index in distinct)
    return chosen + chosen[-1:] * (count - len(chosen))
