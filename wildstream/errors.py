"""What can go wrong, as a tree: what may be left out and counted, and what must stop the run.

    WildStreamError
    ├── ConfigError          fatal: an option is unknown, out of range or contradicts another
    ├── EnvironmentProblem   fatal: this machine or process lacks something
    │   ├── FFmpegError          no FFmpeg libraries that torchcodec can use
    │   ├── WeightsError         pretrained weights that cannot be had here
    │   ├── LaunchError          a launcher lost ranks on the way
    │   └── WorkerError          a process that decodes died
    ├── FormatError          fatal: a source folder is not in the layout that was asked for
    ├── ShardError           fatal: shards or index are missing, damaged, or do not fit each other
    │   └── StorageError         a file or object is missing, forbidden, changed, or not to be had after many attempts
    ├── ExportError          fatal: a model cannot be exported, or an exported one cannot be used
    ├── LedgerError          fatal: an epoch's windows do not add up
    ├── Interrupted          a training was told to stop, and can go on where it was
    └── SampleError          skippable: one video is at fault, the others are fine
        ├── LabelError           its labels are missing or malformed
        └── VideoError           its bytes do not decode to what the index promises

Every message gives the name, the value, the rule and the remedy.
"""

__all__ = [
    "ConfigError",
    "EnvironmentProblem",
    "ExportError",
    "FFmpegError",
    "FormatError",
    "Interrupted",
    "LabelError",
    "LaunchError",
    "LedgerError",
    "SampleError",
    "ShardError",
    "StorageError",
    "VideoError",
    "WeightsError",
    "WildStreamError",
    "WorkerError",
]


class WildStreamError(Exception):
    """The root of everything that WildStream raises on purpose."""


class ConfigError(WildStreamError, ValueError):
    """An option is unknown, out of range, or contradicts another one."""


class EnvironmentProblem(WildStreamError, RuntimeError):
    """The machine or the process lacks something that cannot be worked around."""


class FFmpegError(EnvironmentProblem):
    """No FFmpeg libraries were found that torchcodec can load."""


class WeightsError(EnvironmentProblem):
    """Pretrained weights are neither on this machine nor within reach."""


class LaunchError(EnvironmentProblem):
    """The launcher promised more processes than the training sees."""


class WorkerError(EnvironmentProblem):
    """A process that decodes for the loader died or failed."""


class FormatError(WildStreamError):
    """A source folder is not in the layout that was asked for."""


class ShardError(WildStreamError):
    """Shards or their index are missing, damaged, or do not fit each other."""


class StorageError(ShardError):
    """A file or object is missing, forbidden, changed while it was read, or not to be had after many attempts."""


class ExportError(WildStreamError):
    """A model cannot be written for other programs, or such a file is no such file, damaged, or not to be trusted."""


class LedgerError(WildStreamError):
    """What was delivered, skipped and padded is not what was planned."""


class Interrupted(WildStreamError):
    """A training was told to stop by a signal; everything that is needed to go on was written."""


class SampleError(WildStreamError):
    """One video is at fault; the rest of the data is fine, so it may be skipped and counted."""


class LabelError(SampleError):
    """The labels of one video are missing or malformed."""


class VideoError(SampleError):
    """The bytes of one video do not decode to what was promised."""
