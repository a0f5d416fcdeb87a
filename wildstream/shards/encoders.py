"""How videos are re-encoded: the options that people give, and FFmpeg's encoders that do it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, fields
from typing import Any

from wildstream.errors import ConfigError

ENCODERS = {"h264": ("libx264",), "hevc": ("libx265",), "av1": ("libsvtav1", "libaom-av1")}
"""FFmpeg's encoders of each codec, the first that is there is taken."""
LARGEST_CRF = {"h264": 51, "hevc": 51, "av1": 63}
SMALLEST_SIDE, MANY = 16, 1 << 16
EXTENSION = "mp4"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcode:
    """How videos are re-encoded on their way into the shards."""

    short_side: int | None = None
    """Pixels of the shorter side, rounded down to an even number; smaller videos, and all with None, keep their size,
    but for odd sides, which lose a pixel."""
    gop: int = 32
    """Frames from one key frame to the next. A small one is quick to seek in, a large one takes less space."""
    codec: str = "h264"
    """"h264", "hevc" or "av1", as far as this machine's PyAV can encode it."""
    crf: int = 20
    """Constant rate factor of the encoder: 0 is best; to 51 (h264, hevc) or 63 (av1), larger is smaller and worse."""

    def __post_init__(self) -> None:
        """Refuse what no encoder does."""
        if self.codec not in ENCODERS:
            raise ConfigError(f"transcode codec={self.codec!r} is not known. Take one of {', '.join(ENCODERS)}.")
        find_encoder(self.codec)
        limits = {"short_side": (SMALLEST_SIDE, MANY), "gop": (1, MANY), "crf": (0, LARGEST_CRF[self.codec])}
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if not (name == "short_side" and value is None) and (type(value) is not int or not least <= value <= most):
                rule = f"a whole number from {least} to {most}" + (f" with {self.codec}" if name == "crf" else "")
                raise ConfigError(f"transcode {name}={value!r} must be {rule}. Change {name}.")

    @classmethod
    def parse(cls, text: str) -> Transcode:
        """Read options as the command line has them, such as "short_side=256,gop=32,codec=h264,crf=20".

        Raises:
            ConfigError: An option is unknown, there twice, no number or out of range, or there is none.
        """
        known = [field.name for field in fields(cls)]
        values: dict[str, Any] = {}
        for part in text.split(","):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or not value:
                raise ConfigError(f"transcode: {part!r} is not NAME=VALUE. Write, say, short_side=256,gop=32.")
            if name not in known:
                raise ConfigError(f"transcode: {name} is not an option. Take some of {', '.join(known)}.")
            if name in values:
                raise ConfigError(f"transcode: {name} is there twice. Give it once.")
            if name != "codec" and not (value.isascii() and value.isdecimal()):
                raise ConfigError(f"transcode {name}={value!r} must be a whole number. Write, say, {name}=32.")
            values[name] = value if name == "codec" else int(value)
        return cls(**values)

    def options(self) -> dict[str, int | str]:
        """Every option that is set, by name: what dataset.json records and a shard's fingerprint depends on."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def frame_size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height in pixels of the result, both even, of a video of this width and height."""
        short = min(width, height)
        if self.short_side is None or short <= self.short_side:
            return max(2, width - width % 2), max(2, height - height % 2)
        wide, high = (2 * round(side * self.short_side / short / 2) for side in (width, height))
        even = self.short_side - self.short_side % 2
        return (even if width == short else wide), (even if height == short else high)


def find_encoder(codec: str) -> str:
    """FFmpeg's name of the encoder of a codec, or ConfigError where PyAV has none."""
    import av

    for name in ENCODERS[codec]:
        if _can_encode(name):
            os.environ.setdefault("SVT_LOG", "1")  # libsvtav1 else writes twenty lines about itself for each video
            return name
    able = [other for other in ENCODERS if any(map(_can_encode, ENCODERS[other]))]
    raise ConfigError(
        f"transcode codec={codec!r}: this machine's PyAV {av.__version__} has no {' or '.join(ENCODERS[codec])}. "
        f"Take one of {', '.join(able) or '(none)'}, or PyAV's wheel (pip install --only-binary av av)."
    )


def _can_encode(name: str) -> bool:
    """Whether this machine's PyAV has an encoder."""
    import av

    try:
        return bool(av.Codec(name, "w").is_encoder)
    except ValueError:  # its way to say that it knows none of that name
        return False


def encoder_options(encoder: str, options: Transcode, num_frames: int) -> dict[str, str]:
    """A key frame every `gop` frames and nowhere else, closed groups, one thread, nothing written to stderr."""
    gop = options.gop
    general = {"g": str(gop), "keyint_min": str(gop), "flags": "+cgop", "threads": "1", "crf": str(options.crf)}
    x26 = f"keyint={gop}:min-keyint={gop}:scenecut=0:open-gop=0"
    # libx265 gives frames to decode before others their times from frames that a video of one or two does not have.
    few = ":bframes=0" if num_frames < 8 else ""
    special = {
        # Without mbtree: with AVX-512, libx264 165 gives other bytes each time.
        "libx264": {"x264-params": f"{x26}:threads=1:mbtree=0"},
        "libx265": {"x265-params": f"{x26}:pools=none:frame-threads=1:wpp=0:log-level=none{few}"},
        "libsvtav1": {"preset": "8", "svtav1-params": "lp=1:scd=0:irefresh-type=2"},
        "libaom-av1": {"cpu-used": "6", "row-mt": "0", "aom-params": "sframe-dist=0:fwd-kf-max-dist=0"},
    }
    return general | special[encoder]
