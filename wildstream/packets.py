"""Which packets of a video a decoder can be spared: those of frames that nobody wants and no other frame needs.

H.264 and HEVC say of each picture whether others are predicted from it. x264 makes about half of all frames such that
none is. Where windows take every fourth frame only, or a run begins between two key frames, leaving those out saves a
third of the work, and the frames that remain are the same to the bit.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from wildstream.facts import FrameTable, Ints

if TYPE_CHECKING:
    import numpy.typing as npt


class Sparing:
    """Follows a decoder through the packets of a video, and says which of them it need not be given.

    Nothing is spared before it is known where the decoder began: a seek may land at an earlier key frame than was asked
    for. The first frame that comes out tells, if it is a key frame and so the first that went in. Where that is not so,
    other frames are missing than are said to be spared, and whoever checks the frames' times finds out.
    """

    def __init__(self, table: FrameTable, needed: npt.NDArray[np.bool_] | None, spared: set[int]) -> None:
        """Leave out what can be spared of the frames that are not `needed`, (num_frames,), and add it to `spared`.

        With `needed=None` nothing is left out.
        """
        self._table = table
        self._spared = spared
        self._sparable = np.zeros(len(table.pts), np.bool_)
        if needed is not None:
            self._sparable[table.unreferenced] = True
            self._sparable &= ~needed
        self._place: int | None = None
        self._taken = 0
        self._spares = bool(self._sparable.any())
        self.waits = self._spares
        """Whether the first frame that comes out is waited for."""

    def begin(self, shown_at: int | None = None) -> None:
        """Note that the decoder was first given the packet of the frame with this pts; by default the first packet."""
        self.waits = False
        if shown_at is None:
            self._place = 0
            return
        frame = int(np.searchsorted(self._table.pts, shown_at))
        found = np.flatnonzero(self._table.packets == frame)
        # Frames that are shown before the key frame that they follow (leading ones) did not go in first.
        if len(found) and frame in self._table.key_frames:
            self._place = int(found[0]) + self._taken

    def leaves_out(self) -> bool:
        """Whether the next packet need not be decoded; to be called once for each packet, in order."""
        if not self._spares:
            return False
        self._taken += 1
        if self._place is None or self._place >= len(self._table.packets):
            return False
        frame = int(self._table.packets[self._place])
        self._place += 1
        if not self._sparable[frame]:
            return False
        self._spared.add(frame)
        return True


def find_unreferenced(data: Tensor, table: FrameTable) -> tuple[Ints, Ints]:
    """`packets` and `unreferenced` of a `FrameTable`; both empty where nothing can be spared or it is not certain.

    Args:
        data: (num_bytes,) uint8, CPU: the file.
        table: The video's frames, none of them lost.
    """
    import av

    nothing = np.zeros(0, np.int64), np.zeros(0, np.int64)
    try:
        with av.open(io.BytesIO(data.numpy().data), "r") as container:
            stream = container.streams.best("video")
            if stream is None or stream.codec_context.name not in _READERS:
                return nothing
            is_referenced = _READERS[stream.codec_context.name]
            prefix = _length_bytes(stream.codec_context.name, stream.codec_context.extradata)
            found = [
                (packet.pts, is_referenced(list(_units(bytes(packet), prefix))))
                for packet in container.demux(stream)
                if packet.size
            ]
    except av.FFmpegError:
        return nothing
    pts = np.asarray([-1 if shown_at is None else shown_at for shown_at, _ in found], np.int64)
    if not np.array_equal(np.sort(pts), table.pts) or bool((np.diff(table.pts) <= 0).any()):
        return nothing
    packets = np.searchsorted(table.pts, pts).astype(np.int64)
    layers = [layer for _, layer in found]
    # A temporal layer's frames that others of it do without may still be needed by the layers above.
    highest = max(abs(layer) for layer in layers)
    unreferenced = np.sort(packets[[layer == -highest for layer in layers]])
    return (packets, unreferenced) if len(unreferenced) else nothing


def _length_bytes(codec: str, extradata: bytes | None) -> int:
    """Bytes that give the length before each unit, as MP4 and Matroska have it; 0 for start codes instead.

    Source: ISO/IEC 14496-15, AVCDecoderConfigurationRecord and HEVCDecoderConfigurationRecord.
    """
    place = {"h264": 4, "hevc": 21}[codec]
    if not extradata or extradata[0] != 1 or len(extradata) <= place:
        return 0
    return (extradata[place] & 3) + 1


def _units(packet: bytes, length_bytes: int) -> Iterator[bytes]:
    """The first two bytes of each unit (NAL unit) of a packet."""
    if length_bytes == 0:
        for unit in packet.split(b"\x00\x00\x01")[1:]:
            yield unit[:2]
        return
    place = 0
    while place + length_bytes < len(packet):
        length = int.from_bytes(packet[place : place + length_bytes], "big")
        place += length_bytes
        yield packet[place : place + 2]
        place += length


def _layer_of_h264(units: list[bytes]) -> int:
    """1 for a picture that others are predicted from, -1 for one that none is.

    Source: ITU-T H.264, 7.4.1: nal_ref_idc is 0 in all slices of a picture that is no reference, and in none else.
    """
    slices = [unit[0] for unit in units if unit and 1 <= unit[0] & 31 <= 5]
    return -1 if slices and all(header >> 5 & 3 == 0 for header in slices) else 1


def _layer_of_hevc(units: list[bytes]) -> int:
    """The temporal layer of a picture, counted from 1; negative where others of its layer do without it.

    Source: ITU-T H.265, 7.4.2.2: even types below 16 are pictures that none of the same layer is predicted from.
    """
    slices = [(unit[0] >> 1 & 63, unit[1] & 7) for unit in units if len(unit) == 2 and unit[0] >> 1 & 63 < 32]
    if not slices:
        return 1
    layer = max(layer for _, layer in slices)
    return -layer if all(kind < 16 and kind % 2 == 0 for kind, _ in slices) else layer


_READERS: dict[str, Callable[[list[bytes]], int]] = {"h264": _layer_of_h264, "hevc": _layer_of_hevc}
