"""Shards → the windows to train and to validate on, with the classes that are wanted."""

from __future__ import annotations

import os
from dataclasses import replace

from tqdm import tqdm

from wildstream.config.data import DataConfig
from wildstream.errors import ConfigError
from wildstream.shards.class_map import OTHER, ClassMap, make_class_map, merge_rare, new_categories
from wildstream.shards.index import open_index
from wildstream.storage.urls import join
from wildstream.stream.dataset import WindowDataset, check_contents


def open_splits(data: DataConfig, backbone: str) -> tuple[WindowDataset, WindowDataset, ClassMap | None]:
    """The windows to train on, those to validate on, and what their classes were made of (None: they are the shards').

    Raises:
        ConfigError: The splits have other categories or another task than each other, or one has no window; or the
            class map does not go with them.
        ShardError: There is no such split.
    """
    training, validation = (_open_split(data, split, backbone) for split in (data.train_split, data.val_split))
    for what in ("categories", "task"):
        first, second = (getattr(dataset.index.info, what) for dataset in (training, validation))
        if first != second:
            raise ConfigError(
                f"{data.path}: the {what} of {data.train_split} are {first}, those of {data.val_split} {second}. "
                "Pack both splits from one source."
            )
    if data.class_map is None:
        return training, validation, None
    try:
        class_map = _find_class_map(data, training)
        training, validation = (_with_classes(dataset, class_map) for dataset in (training, validation))
    except ConfigError as error:
        raise ConfigError(f"data.class_map: {error}") from error
    return training, validation, class_map


def _find_class_map(data: DataConfig, training: WindowDataset) -> ClassMap:
    """What each category becomes; what is rare, the training set says."""
    options = data.class_map
    assert options is not None
    class_map = make_class_map(training.categories, rename=options.rename, drop=options.drop)
    if not options.min_samples:
        return class_map
    there = _with_classes(training, class_map)
    samples = dict(zip(there.categories, there.labels().sum(axis=0).tolist(), strict=True))
    merged = merge_rare(class_map, samples, min_samples=options.min_samples)
    rare = sorted(set(new_categories(class_map)) - set(new_categories(merged)))
    if rare and int(os.environ.get("RANK", "0")) == 0:
        tqdm.write(f"classes: {len(rare)} of {len(samples)} are {OTHER}: {', '.join(rare)}")
    return merged


def _with_classes(dataset: WindowDataset, class_map: ClassMap) -> WindowDataset:
    """The same windows with other classes; there must be some."""
    mapped = replace(dataset, index=dataset.index.with_classes(class_map))
    if not len(mapped):
        raise ConfigError(f"drop leaves no video of {dataset.index.info.split}. Leave out fewer classes.")
    return mapped


def _open_split(data: DataConfig, split: str, backbone: str) -> WindowDataset:
    """The windows of one split; there must be some."""
    index = open_index(join(data.path, split), data.make_storage())
    check_contents(index, data.sliding_style, precomputed=data.precomputed, feature_model=backbone)
    dataset = WindowDataset(index=index, style=data.sliding_style)
    if not len(dataset):
        longest = int(dataset.index.num_frames.max(initial=0))
        raise ConfigError(
            f"{join(data.path, split)} has no window of data.style={data.style}: its longest video has {longest} "
            "frames. Take a style with a smaller window_size or temporal_sample_interval."
        )
    return dataset
