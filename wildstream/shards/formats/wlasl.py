"""WLASL: a JSON of glosses, and the videos of their instances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, Field, FiniteFloat, TypeAdapter, ValidationError

from wildstream.errors import FormatError, LabelError
from wildstream.facts import VideoFacts
from wildstream.shards.cut import Cut
from wildstream.shards.formats.listed import Clip, ListedSources, split_called
from wildstream.shards.formats.scanning import LOOKED_AT, Listing, Scan, Source, Task, list_videos
from wildstream.shards.label_files import read_json
from wildstream.shards.labels import LabelTrack

Subset = Literal["all", "asl100", "asl300", "asl1000", "asl2000"]


class _Instance(BaseModel):
    """A video of a gloss, or a part of one."""

    video_id: Annotated[str, BeforeValidator(str), Field(min_length=1)]
    instance_id: int = 0
    split: str = ""
    frame_start: int = 1
    """Counted from 1."""
    frame_end: int = -1
    """The last one; -1: the end of the video."""
    bbox: Annotated[list[FiniteFloat], Field(min_length=4, max_length=4)] | None = None
    """Left, top, right, bottom of the signer, in pixels."""


class _Gloss(BaseModel):
    """A sign and who shows it."""

    gloss: Annotated[str, Field(min_length=1)]
    instances: list[_Instance]


_GLOSSES = TypeAdapter(list[_Gloss])


@dataclass(frozen=True, slots=True, kw_only=True)
class Wlasl:
    """WLASL's layout: a JSON that lists the instances of each gloss, and their videos.

    WLASL_v0.3.json                   any name: [{"gloss": "book", "instances": [{"video_id": "69241", "split":
                                      "train", "frame_start": 1, "frame_end": -1, "bbox": [385, 37, 885, 720], …}, …]}]
    [videos/]69241.mp4                found by its id

    An instance that is not all of its video, or of which the signer alone is wanted, is cut out and re-encoded. Videos
    that are missing, as many of WLASL's are, are noted.
    """

    subset: Subset = "all"
    """The glosses with most instances: 100 of them, 300, 1000 or 2000; of equally many, those that come first."""
    crop: bool = False
    """Whether clips are cut to the box of the signer."""
    cut: bool = True
    """Whether frame_start and frame_end are cut out; no: the videos are cut already, as WLASL's own scripts do it."""

    name: ClassVar[str] = "wlasl"
    task: ClassVar[Task] = "single_label"
    counts_frames: ClassVar[bool] = False

    def recognise(self, listing: Listing) -> str:
        """See Format."""
        for path in listing.having("json")[:LOOKED_AT]:
            if _is_wlasl(path):
                return f"{listing.told(path)} lists instances of glosses"
        return ""

    def scan(self, root: Path) -> Scan:
        """See Format."""
        listing = list_videos(root)
        found = [path for path in listing.having("json") if _is_wlasl(path)]
        if len(found) != 1:
            several = "no JSON" if not found else f"{len(found)} JSONs, such as {found[0].name} and {found[1].name},"
            raise FormatError(f'{several} below {root} that lists {{"gloss": …, "instances": […]}}; there must be one')
        glosses = _read(found[0], listing.told(found[0]))
        chosen = self._chosen(glosses)
        gathered = ListedSources(listing, listing.videos)
        told = f"{listing.told(found[0])} has no instance of it"
        scan = gathered.add(self._clips(found[0], chosen), categories=[gloss.gloss for gloss in chosen], lacking=told)
        if chosen != glosses:  # videos of other glosses are not missed
            known = {instance.video_id for gloss in glosses for instance in gloss.instances}
            scan.unused = [note for note in scan.unused if note.reason != told or Path(note.path).stem not in known]
        return scan

    def read(self, source: Source, *, facts: VideoFacts, categories: list[str]) -> LabelTrack:
        """See Format."""
        label = categories.index(source.part)
        return LabelTrack.from_class(label, num_frames=facts.num_frames, num_classes=len(categories))

    def _chosen(self, glosses: list[_Gloss]) -> list[_Gloss]:
        """The glosses of the subset, in order of the file."""
        if self.subset == "all":
            return glosses
        count = int(self.subset.removeprefix("asl"))
        if len(glosses) < count:
            raise FormatError(f"subset={self.subset} needs {count} glosses, but there are {len(glosses)}. Take all.")
        ranked = sorted(range(len(glosses)), key=lambda place: -len(glosses[place].instances))
        return [glosses[place] for place in sorted(ranked[:count])]

    def _clips(self, path: Path, glosses: list[_Gloss]) -> Iterator[Clip]:
        """The instances of glosses."""
        counted = Counter(instance.video_id for gloss in glosses for instance in gloss.instances)
        for gloss in glosses:
            for instance in gloss.instances:
                origin = f"{path.name}, gloss {gloss.gloss!r:.40}, instance {instance.instance_id}"
                problem = _problem(instance)
                yield Clip(
                    video=instance.video_id,
                    label=gloss.gloss,
                    origin=origin,
                    split=split_called(instance.split),
                    cut=None if problem else self._cut(instance, origin),
                    name=str(instance.instance_id) if counted[instance.video_id] > 1 else "",
                    problem=problem,
                )

    def _cut(self, instance: _Instance, origin: str) -> Cut | None:
        """The part of its video that an instance is; None: all of it."""
        whole = not self.cut or (instance.frame_start, instance.frame_end) == (1, -1)
        frames = None if whole else (instance.frame_start - 1, None if instance.frame_end == -1 else instance.frame_end)
        box = None
        if self.crop and instance.bbox is not None:
            left, top, right, bottom = instance.bbox
            box = (left, top, right, bottom)
        return None if frames is None and box is None else Cut(frames=frames, box=box, origin=origin)


def _problem(instance: _Instance) -> str:
    """Why an instance cannot be used; empty where it can."""
    first, last = instance.frame_start, instance.frame_end
    if first < 1 or (last != -1 and last < first):
        return f"its frames {first} to {last} are none; frame_start counts from 1, frame_end is not before it, or -1"
    box = instance.bbox
    if box is not None and not (box[0] < box[2] and box[1] < box[3]):
        return f"its bbox {box} is none; it is left, top, right, bottom"
    return ""


def _is_wlasl(path: Path) -> bool:
    """Whether a JSON begins as such a list does, whatever comes later."""
    with path.open("rb") as file:
        head = file.read(4096).decode("utf-8", errors="ignore").lstrip("\ufeff \t\r\n")
    return head.startswith("[") and '"gloss"' in head


def _read(path: Path, told: str) -> list[_Gloss]:
    """The glosses of a JSON; FormatError, which says where, if it is not one of WLASL's."""
    try:
        glosses = _GLOSSES.validate_python(read_json(path))
    except LabelError as error:
        raise FormatError(f"{told} cannot be read: {error}. Download it again, or correct it") from error
    except ValidationError as error:
        fault = error.errors()[0]
        place = " → ".join(str(part) for part in fault["loc"])
        raise FormatError(f"{told}, at {place}: {fault['msg']} (got {fault['input']!r:.60})") from error
    names = Counter(gloss.gloss for gloss in glosses)
    if doubled := [name for name, times in names.items() if times > 1]:
        raise FormatError(f"{told} has the gloss {doubled[0]!r} {names[doubled[0]]} times. Unite its instances")
    if not glosses:
        raise FormatError(f"{told} has no gloss")
    return glosses
