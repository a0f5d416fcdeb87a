"""What this machine can do with WildStream, what it lacks, and how to get it: `wildstream doctor`."""

from wildstream.doctor.report import Finding, diagnose, is_able, render

__all__ = ["Finding", "diagnose", "is_able", "render"]
