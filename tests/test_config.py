"""Configuration: what is composed, and that everything else is refused by name before anything is read."""

import pytest
import yaml

from wildstream.config.compose import (
    _options,
    check_config,
    compose_config,
    example_names,
    group_names,
    option_lines,
)
from wildstream.config.train import TrainConfig
from wildstream.errors import ConfigError
from wildstream.locations import CONFIGS
from wildstream.stream.windows import get_style, style_names
from wildstream.training.run import train

NOWHERE = "data.path=/does/not/exist"
OPTIONS = [path for path, _ in _options(TrainConfig)]


def test_a_path_is_all_that_must_be_given():
    config = compose_config([NOWHERE])
    assert config.data.path == "/does/not/exist"
    assert config.data.style == "sliding_window"
    assert config.model.backbone == "r3d_18"
    assert config.trainer.epochs == 10


# --- refusals ---------------------------------------------------------------------------------------------------------

REFUSALS = [
    ("trainer.epocs=3", "trainer.epocs is not an option. Did you mean trainer.epochs"),
    ("epochs=3", "epochs is not an option. Did you mean trainer.epochs?"),
    ("dta.style=frames", "dta.style is not an option. Did you mean data.style?"),
    ("+bogus=1", "bogus is not an option. `train.py --help` lists all options."),
    ("model=nope", "model=nope: there is no configs/model/nope.yaml. Take one of dino, mvit_v2_s, r3d_18, s3d"),
    ("data.size", "'data.size' is not an override. Write option=value, such as trainer.epochs=3."),
    ("", "'' is not an override"),
    ("--epochs=3", "'--epochs=3' is not an override"),
    ("~trainer.lr", "'~trainer.lr' is not an override"),
    ("trainer.project=a(b", "trainer.project=a(b cannot be read. Quote the value"),
    ("data.path=null", "data.path=None"),
    ("data.style=nope", "data.style='nope' is not known. Take one of fix_patched_224"),
    ("data.style={window_size: 4}", "samples_per_window=16 must divide window_size=4. Take one of 1, 2, 4."),
    ("data.style={windowsize: 4}", "windowsize is no parameter of a sliding style"),
    ("data.style.step_size=0", "step_size=0 must be a whole number of at least 1"),
    ("data.size=0", "data.size=0 must be a positive number of pixels"),
    ("data.size=true", "data.size=True must be a positive number of pixels"),
    ("data.size=[1,2,3]", "data.size=[1, 2, 3] must be a positive number of pixels"),
    ("data.val_split=train", "data.train_split and data.val_split are both 'train'"),
    ("data.num_workers=0", "data.num_workers=0 must be greater than or equal to 1"),
    ("data.lanes=0", "data.lanes=0 must be greater than or equal to 1"),
    ("data.pool_segments=0", "data.pool_segments=0 must be greater"),
    ("data.segment_frames=-1", "data.segment_frames=-1 must be greater"),
    ("model.backbone=r3d18", "model.backbone='r3d18' is not known. Take one of r3d_18, mc3_18"),
    ("model.pooling=avg", "model.pooling='avg' is not known. Take one of mean, max, attention, cls."),
    ("model.classifier=mpl", "model.classifier='mpl' is not known. Take one of linear, mlp, extensible."),
    ("model.aggregator=sum", "model.aggregator='sum' is not known. Take one of mean, max, attention, lse."),
    ("model.chunk=0", "model.chunk=0 must be greater than or equal to 1"),
    ("trainer.epochs=0", "trainer.epochs=0 must be greater than or equal to 1"),
    ("trainer.epochs=1.5", "trainer.epochs=1.5 must be a valid integer"),
    ("trainer.epochs=true", "trainer.epochs=True must be a valid integer"),
    ("trainer.batch_size=0", "trainer.batch_size=0 must be greater"),
    ("trainer.lr=0", "trainer.lr=0 must be greater than 0"),
    ("trainer.lr=abc", "trainer.lr='abc' must be a valid number"),
    ("trainer.lr=inf", "trainer.lr=inf must be a finite number"),
    ("trainer.lr=nan", "trainer.lr=nan must be a finite number"),
    ("trainer.weight_decay=-1", "trainer.weight_decay=-1 must be greater than or equal to 0"),
    ("trainer.clip_norm=0", "trainer.clip_norm=0 must be greater than 0"),
    ("trainer.precision=fp8", "trainer.precision='fp8' must be 'no', 'bf16' or 'fp16'."),
    ("trainer.seed=-1", "trainer.seed=-1 must be greater than or equal to 0"),
    ("trainer.monitor=accuracy", "trainer.monitor='accuracy' is not known. Take one of loss, mAP, mAP_micro, "),
    ("trainer.wandb=on", "trainer.wandb="),
    ("trainer.progress=maybe", "trainer.progress='maybe' must be a valid boolean"),
]


@pytest.mark.parametrize(("override", "message"), REFUSALS, ids=[override or "empty" for override, _ in REFUSALS])
def test_a_wrong_option_is_refused_by_name_though_there_are_no_shards_either(override, message):
    with pytest.raises(ConfigError) as caught:
        train(compose_config([override] if override.startswith("data.path") else [NOWHERE, override]))
    assert message in str(caught.value)


def test_every_wrong_option_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        compose_config([NOWHERE, "trainer.lr=-1", "trainer.epochs=0"])
    assert len(str(caught.value).splitlines()) == 2


def test_a_missing_path_is_refused_with_what_to_write():
    with pytest.raises(ConfigError, match=r"data\.path is missing\. Give it on the command line: data\.path="):
        compose_config([])
    with pytest.raises(ConfigError, match=r"data is missing"):
        check_config({"model": {"backbone": "tiny3d"}})
    with pytest.raises(ConfigError, match=r"trainer\.epocs is not an option"):
        check_config({"data": {"path": "x"}, "model": {"backbone": "tiny3d"}, "trainer": {"epocs": 1}})


# --- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/a b/c", "/a=b", "/a,b", "/a (1)", "/it's", "/[x]", "/ümlaut", "'/quoted'"])
def test_a_path_is_taken_as_it_is_written(path):
    assert compose_config([f"data.path={path}"]).data.path == path.strip("'")


def test_paths_are_kept_absolute_and_know_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert compose_config(["data.path=shards"]).data.path == str(tmp_path / "shards")
    config = compose_config(["data.path=~/shards", "trainer.out=~/runs/1"])
    assert config.data.path == str(tmp_path / "home" / "shards")
    assert config.trainer.out == tmp_path / "home" / "runs" / "1"


def test_urls_stay_as_they_are_and_nothing_secret_is_kept():
    config = compose_config(["data.path=s3://bucket/shards/", "data.storage_options.region=eu-west-1"])
    assert config.data.path == "s3://bucket/shards"
    assert config.data.make_storage().options == {"region": "eu-west-1"}
    for override in ("data.storage_options.secret_access_key=abc", "data.storage_options.sas_token=abc"):
        with pytest.raises(ConfigError, match=r"would be kept with the run\. Give keys") as raised:
            compose_config([NOWHERE, override])
        assert "abc" not in str(raised.value)
    public = compose_config([NOWHERE, "data.storage_options.skip_signature=true", "data.cache_bytes=100GiB"]).data
    assert public.storage_options == {"skip_signature": True}
    assert public.cache_bytes == 100 << 30
    for override in ("data.storage_options.endpoint='https://me:abc@host'", "data.storage_options.sas_token=[abc]"):
        with pytest.raises(ConfigError, match="would be kept with the run") as raised:
            compose_config([NOWHERE, override])
        assert "abc" not in str(raised.value)
    with pytest.raises(ConfigError, match=r"https://\*\*\*@host/shards holds a login") as raised:
        compose_config(["data.path=https://me:abc@host/shards"])
    assert "abc" not in str(raised.value)
    with pytest.raises(ConfigError, match="would run a command"):
        compose_config(["data.path=pipe:cat shards.tar"])


def test_a_style_is_a_name_or_its_parameters():
    named = compose_config([NOWHERE, "data.style=frames"]).data.sliding_style
    assert named == get_style("frames")
    spelt = compose_config([NOWHERE, "data.style={window_size: 8, samples_per_window: 4}"]).data
    assert (spelt.sliding_style.window_size, spelt.sliding_style.samples_per_window) == (8, 4)
    dotted = compose_config([NOWHERE, "data.style.window_size=8", "data.style.samples_per_window=4"]).data
    assert dotted == spelt


def test_values_reach_their_option():
    config = compose_config(
        [
            NOWHERE,
            "data.size=[64,32]",
            "trainer.lr=1",
            "trainer.clip_norm=null",
            "++trainer.epochs=3",
            "+data.lanes=7",
        ]
    )
    assert config.data.size == (64, 32)
    assert config.trainer.lr == 1.0
    assert config.trainer.clip_norm is None
    assert (config.trainer.epochs, config.data.lanes) == (3, 7)


def test_a_configuration_survives_being_written_down():
    config = compose_config([NOWHERE, "data.style={window_size: 8, samples_per_window: 4}", "data.size=64"])
    assert check_config(config.model_dump(mode="json")) == config
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config


# --- what is there ----------------------------------------------------------------------------------------------------


def test_help_names_every_option_with_its_default_and_meaning():
    lines = option_lines()
    assert [line.split()[0] for line in lines[::2]] == OPTIONS
    assert all(line.strip().endswith(".") and len(line.split()) >= 2 for line in lines[1::2])
    assert "  data.path (required)" in lines
    assert "  model.backbone = r3d_18" in lines
    assert "  trainer.clip_norm = 1.0" in lines
    assert "  trainer.progress = true" in lines
    assert "  trainer.out = null" in lines


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, names in group_names().items() for name in names])
def test_every_group_file_composes(group, name):
    config = compose_config([NOWHERE, f"{group}={name}"])
    assert isinstance(config, TrainConfig)


def test_every_yaml_is_a_group_a_style_or_the_root():
    known = {CONFIGS / group / f"{name}.yaml" for group, names in group_names().items() for name in names}
    known |= {CONFIGS / "sliding" / f"{name}.yaml" for name in style_names()} | {CONFIGS / "train.yaml"}
    known |= {CONFIGS / "examples" / f"{name}.yaml" for name in example_names()}
    assert set(CONFIGS.rglob("*.yaml")) == known
    assert set(group_names()) == {"data", "augment", "model", "trainer"}


@pytest.mark.parametrize("name", example_names())
def test_every_example_is_complete_and_says_what_it_is_for(name):
    more = ["model.hierarchy.file=species.csv"] if name == "hierarchy" else []
    assert compose_config([NOWHERE, *more], file=name) != compose_config([NOWHERE])
    assert (CONFIGS / "examples" / f"{name}.yaml").read_text().startswith("# ")


def test_the_examples_are_those_that_were_promised():
    assert example_names() == ["behaviour", "debug_cpu", "features", "hierarchy", "sign_clips"]


@pytest.mark.parametrize("style", style_names())
def test_every_style_composes(style):
    assert compose_config([NOWHERE, f"data.style={style}"]).data.sliding_style == get_style(style)


def test_options_of_a_group_that_may_be_null_are_options_too():
    config = compose_config(["data.path=x", "model=tiny3d", "model.unfreezing.start_epoch=2", "model.lora=null"])
    assert config.model.unfreezing.start_epoch == 2
    assert config.model.unfreezing.duration == 1
    with pytest.raises(ConfigError, match=r"model\.unfreezing\.start is not an option\. Did you mean .*start_epoch"):
        compose_config(["data.path=x", "model=tiny3d", "model.unfreezing.start=2"])
    with pytest.raises(ConfigError, match=r"model\.frozen and model\.unfreezing contradict each other"):
        compose_config(["data.path=x", "model=tiny3d", "model.unfreezing.start_epoch=2", "model.frozen=true"])


# --- a file of options ------------------------------------------------------------------------------------------------


def written(folder, text):
    (folder / "own.yaml").write_text(text)
    return folder / "own.yaml"


def test_a_file_wins_over_the_groups_and_the_command_line_over_the_file(tmp_path):
    file = written(tmp_path, "data: {path: /a}\nmodel: s3d\ntrainer: {epochs: 3, lr: 1.0e-3}\n")
    config = compose_config(["trainer.lr=2e-3", "trainer.batch_size=4"], file=file)
    assert (config.data.path, config.model.backbone) == ("/a", "s3d")
    assert (config.trainer.epochs, config.trainer.lr, config.trainer.batch_size) == (3, 2e-3, 4)
    assert compose_config(["model=tiny3d"], file=file).model.backbone == "tiny3d"
    assert compose_config([NOWHERE]).trainer.epochs == 10  # nothing of the file stays


def test_the_options_that_a_run_keeps_are_such_a_file(tmp_path):
    config = compose_config(
        [NOWHERE, "model=tiny3d", "data.style={window_size: 8, samples_per_window: 4}", "augment=strong"]
    )
    assert compose_config([], file=written(tmp_path, yaml.safe_dump(config.model_dump(mode="json")))) == config


FILES = [
    ("trainer: {epocs: 3}", r"trainer\.epocs is not an option\. Did you mean trainer\.epochs\?"),
    ("trainer: {epochs: 0}", r"trainer\.epochs=0 must be greater"),
    ("training: {epochs: 3}", r"own\.yaml: 'training' is not a group of options\. Take data, augment, model, trainer"),
    ("trainer: 3", r"own\.yaml: trainer must be options, or the name of a file in configs/trainer: debug, default"),
    ("model: r3d18", r"model=r3d18: there is no configs/model/r3d18\.yaml"),
    ("- 1", r"own\.yaml must hold options by group"),
    ("", r"own\.yaml must hold options by group"),
    ("trainer: {epochs: 3", r"own\.yaml is not YAML: .*line 1"),
]


@pytest.mark.parametrize(("text", "message"), FILES, ids=[text or "empty" for text, _ in FILES])
def test_a_wrong_file_is_refused_by_name(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        compose_config([NOWHERE], file=written(tmp_path, text))


def test_a_missing_file_is_refused_with_the_examples():
    with pytest.raises(
        ConfigError, match=r"behavior: there is no such file of options\. .*one of behaviour, debug_cpu"
    ):
        compose_config([NOWHERE], file="behavior")


def test_a_group_that_the_file_spells_out_is_not_swapped_in_silence(tmp_path):
    file = written(tmp_path, "model: {backbone: s3d}")
    with pytest.raises(ConfigError, match=r"model is swapped .* Override those, such as model\.backbone=\.\.\."):
        compose_config([NOWHERE, "model=tiny3d"], file=file)


def test_a_suggestion_names_only_what_is_close():
    with pytest.raises(ConfigError, match=r"Did you mean trainer\.optimizer\?"):
        compose_config([NOWHERE, "trainer.optimiser=sgd"])
