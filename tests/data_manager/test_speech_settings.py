"""Settings of speech entries: defaults by type, relations, global_config defaults, recipe parameter values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_manager.dataset_types import GlobalConfig
from data_manager.parse_data_args import parse_dataset_configs
from data_manager.speech.recipes import expected_kind
from data_manager.speech.types import LhotseDatasetConfig, SpeedConfig, SubsetConfig, WindowsConfig
from data_manager.speech_settings import FeaturesConfig, LoadingConfig
from model_factory.yaml_config.errors import ConfigError


def violations(config_type, **values):
    """List positions and messages of all violations, with validation of relations deferred."""
    config = config_type.model_validate(values, context={"defer_relations": True})
    return [(violation.at, violation.message) for violation in config.violations()]


def parsed(tmp_path, text):
    (tmp_path / "x.yml").write_text(text)
    return parse_dataset_configs(tmp_path / "x.yml")


def problems(tmp_path, text):
    with pytest.raises(ConfigError) as caught:
        parsed(tmp_path, text)
    return [(problem.place.line, problem.path, problem.message) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("settings", "mel_bins", "ceps", "width"),
    [({}, 80, None, 80), ({"type": "mfcc"}, 23, 13, 13), ({"type": "spectrogram"}, None, None, None)],
)
def test_feature_defaults_by_type(settings, mel_bins, ceps, width):
    features = FeaturesConfig(**settings)
    assert (features.num_mel_bins, features.num_ceps, features.width()) == (mel_bins, ceps, width)
    assert FeaturesConfig.model_validate(features.model_dump()) == features


@pytest.mark.parametrize("kind", ["fbank", "mfcc", "spectrogram"])
@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 44_100])
@pytest.mark.parametrize("length", [0.02, 0.025, 0.032])
def test_feature_width_matches_extractor(kind, rate, length):
    from data_manager.speech.features import make_extractor

    features = FeaturesConfig(type=kind, frame_length=length)
    assert make_extractor(features, rate).feature_dim(rate) == features.width(rate)


@pytest.mark.parametrize(
    ("config_type", "values", "expected"),
    [
        (FeaturesConfig, {"num_ceps": 13}, (("num_ceps",), "fbank features have no num_ceps")),
        (
            FeaturesConfig,
            {"type": "spectrogram", "low_freq": 0},
            (("low_freq",), "spectrogram features have no low_freq"),
        ),
        (
            FeaturesConfig,
            {"type": "mfcc", "num_ceps": 30},
            (("num_ceps",), "30 coefficients cannot be computed from 23 mel bins"),
        ),
        (
            FeaturesConfig,
            {"frame_shift": 0.03},
            (("frame_shift",), "frames of 0.025 s every 0.03 s skip audio between them"),
        ),
        (
            FeaturesConfig,
            {"sampling_rate": 8000, "high_freq": 7600.0},
            (("high_freq",), "mel bins from 20 to 7600 Hz do not lie below half the sampling rate, 4000 Hz"),
        ),
        (
            FeaturesConfig,
            {"low_freq": 300.0, "high_freq": 200.0},
            (("high_freq",), "high_freq 200 Hz is not above low_freq 300 Hz"),
        ),
        (
            FeaturesConfig,
            {"cepstral_lifter": 22},
            (("cepstral_lifter",), "fbank features have no cepstral_lifter"),
        ),
        (FeaturesConfig, {"energy_floor": 0.1}, (("energy_floor",), "energy_floor has no effect without use_energy")),
        (
            FeaturesConfig,
            {"sampling_rate": 11_025, "round_to_power_of_two": False},
            (
                ("round_to_power_of_two",),
                "frames of 275 samples, an odd number, have no mel bins without round_to_power_of_two",
            ),
        ),
        (WindowsConfig, {}, (("seconds",), "fixed windows need their length in seconds")),
        (
            WindowsConfig,
            {"type": "supervisions", "hop": 1},
            (("hop",), "windows of type supervisions have the length of the supervisions, and take no hop"),
        ),
        (
            WindowsConfig,
            {"seconds": 1, "hop": 2},
            (("hop",), "windows of 1 s every 2 s skip audio between them"),
        ),
        (WindowsConfig, {"seconds": 1, "min_tail": 0.5}, (("min_tail",), "tail: keep takes no min_tail")),
        (
            WindowsConfig,
            {"seconds": 1, "min_tail": 2, "tail": "drop"},
            (("min_tail",), "no window is longer than 1 s, so all are shorter than min_tail 2 s"),
        ),
        (
            WindowsConfig,
            {"type": "supervisions", "tail": "join"},
            (("tail",), "windows of type supervisions have no tail to join"),
        ),
        (SubsetConfig, {}, (("first",), "a subset needs first (cuts) or seconds")),
    ],
)
def test_speech_setting_violations(config_type, values, expected):
    assert violations(config_type, **values) == [expected]


def test_null_for_a_recipe_parameter_without_null(tmp_path):
    text = "datasets:\n  - {name: timit, process_params: {num_phones: null}, download_params: {base_url: null}}\n"
    assert problems(tmp_path, text) == [
        (
            2,
            "datasets.0.process_params.num_phones",
            "prepare_timit takes an integer for 'num_phones'; got null; leave it out",
        )
    ]


def test_required_recipe_parameters(tmp_path):
    """A parameter that the downloader takes too is written once; the number of processes is 1."""
    known = "{name: speechcommands, download_params: {speechcommands_version: '2'}}"
    assert parsed(tmp_path, f"datasets:\n  - {known}\n  - {{name: emilia, process_params: {{lang: zh}}}}\n")
    (missing,) = problems(tmp_path, "datasets:\n  - name: emilia\n")
    assert missing[2].startswith("prepare_emilia needs 'lang'")


def test_voxceleb_takes_no_download_params(tmp_path):
    text = "datasets:\n  - {name: voxceleb, download_params: {force_download: true}}\n"
    ((_, _, message),) = problems(tmp_path, text)
    assert message.startswith("voxceleb is downloaded in the parts voxceleb1 and voxceleb2, without parameters")


@pytest.mark.parametrize("channel", ["left", -1])
def test_invalid_channel(channel, tmp_path):
    assert problems(tmp_path, f"datasets:\n  - {{name: timit, features: {{channel: {channel}}}}}\n")


@pytest.mark.parametrize("factors", [[], [0.9, 0.9], [1.0], [10.0]])
def test_invalid_speed_factors(factors):
    with pytest.raises(ValueError, match="factors"):
        SpeedConfig(factors=factors)


def test_global_speech_settings_as_defaults_in_file(tmp_path):
    first, second, third = parsed(
        tmp_path,
        "global_config:\n"
        "  features: {type: mfcc, num_ceps: 20, sampling_rate: 8000}\n"
        "  loading: {max_duration: 100.0, speakers: true}\n"
        "datasets:\n"
        "  - name: librispeech\n"
        "  - {name: yesno, features: {num_ceps: 12}, loading: {max_duration: 50}}\n"
        "  - {name: timit, features: {type: fbank}}\n",
    )
    assert (first.features.type, first.features.num_ceps, first.loading.max_duration) == ("mfcc", 20, 100)
    assert (second.features.type, second.features.num_ceps, second.loading.max_duration) == ("mfcc", 12, 50)
    assert second.loading.speakers
    # num_ceps: 20 does not apply to fbank
    assert third.features == FeaturesConfig(sampling_rate=8000)


def test_global_speech_settings_as_defaults_in_python():
    shared = GlobalConfig(features=FeaturesConfig(type="mfcc", num_ceps=20), loading=LoadingConfig(num_buckets=3))
    config = LhotseDatasetConfig(name="yesno", global_config=shared, features={"num_mel_bins": 40})
    assert (config.features.type, config.features.num_ceps, config.features.num_mel_bins) == ("mfcc", 20, 40)
    assert config.loading.num_buckets == 3
    assert LhotseDatasetConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("feature_type: fbank", "here it is features.type"),
        ("storage_type: numpy", "here it is features.storage"),
        ("num_filters: 80", "here it is features.num_mel_bins [bins]"),
        ("snip_edges: true", "did you mean 'features.snip_edges'?"),
        ("num_jobs: 4", "here it is loading.num_workers [processes]: they also compute stored features"),
        ("progress_bar: true", "leave it out: progress is shown on a terminal"),
        ("random_seed: 1", "here it is training.seed [1]"),
    ],
)
def test_flat_keys_have_a_pointer(tmp_path, text, where):
    key = text.partition(":")[0]
    expected = f"unknown key {key!r}; {where}"
    flat = f"global_config:\n  {text}\ndatasets:\n  - name: yesno\n"
    assert problems(tmp_path, flat) == [(2, f"global_config.{key}", expected)]
    entry = f"datasets:\n  - name: yesno\n    {text}\n"
    assert problems(tmp_path, entry) == [(3, f"datasets.0.{key}", expected)]


def test_flat_keys_in_features_have_a_pointer(tmp_path):
    text = "datasets:\n  - name: yesno\n    features: {feature_type: mfcc, num_jobs: 3}\n"
    assert [message for _, _, message in problems(tmp_path, text)] == [
        "unknown key 'feature_type'; here it is type",
        "unknown key 'num_jobs'; here it is datasets.0.loading.num_workers [processes]: they also compute stored features",
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{window_type: hann}", "must be one of povey, hanning, hamming, rectangular, blackman; got 'hann'"),
        ("{preemph_coeff: 97}", "must be at most 1; got 97"),
        ("{snip_edges: 1}", "must be true or false; got an integer, 1"),
        ("{type: mfcc, cepstral_lifter: 0}", "must be at least 1; got 0"),
        ("{use_energy: true, energy_floor: -1}", "must be at least 0; got -1"),
    ],
)
def test_lhotse_settings_are_checked(tmp_path, value, message):
    ((_, _, found),) = problems(tmp_path, f"datasets:\n  - {{name: yesno, features: {value}}}\n")
    assert found.startswith(message)


def test_use_energy_widens_fbank():
    widths = [FeaturesConfig(type=kind, use_energy=True, sampling_rate=16_000).width() for kind in ("fbank", "mfcc")]
    assert widths == [81, 13]


def test_invalid_global_setting_is_reported_once(tmp_path):
    text = "global_config:\n  features: {num_mel_bin: 40, num_ceps: 3}\ndatasets:\n  - name: yesno\n  - name: timit\n"
    assert problems(tmp_path, text) == [
        (2, "global_config.features.num_mel_bin", "unknown key 'num_mel_bin'; did you mean 'num_mel_bins'?"),
        (2, "global_config.features.num_ceps", "fbank features have no num_ceps; leave it out, or type: mfcc"),
    ]


def test_unfit_global_setting_is_reported_at_its_line(tmp_path):
    text = (
        "global_config:\n  features: {num_mel_bins: 10}\ndatasets:\n"
        "  - {name: yesno, features: {type: mfcc}}\n  - {name: timit, features: {type: mfcc, num_mel_bins: 20}}\n"
    )
    assert problems(tmp_path, text) == [
        (2, "global_config.features.num_mel_bins", "13 coefficients cannot be computed from 10 mel bins; at least 13")
    ]


def test_print_config_names_origin_and_reloads(tmp_path, capsys):
    from parse_args import main

    (tmp_path / "x.yml").write_text("global_config:\n  features: {type: mfcc}\ndatasets:\n  - name: yesno\n")
    assert main(["--config", str(tmp_path / "x.yml"), "--print-config"]) == 0
    printed = capsys.readouterr().out
    assert "x.yml:2 (global_config.features)" in printed
    (tmp_path / "y.yml").write_text(printed)
    assert parse_dataset_configs(tmp_path / "y.yml")[0].features == FeaturesConfig(type="mfcc")


@pytest.mark.parametrize(
    ("annotation", "good", "bad", "wanted"),
    [
        ("int", [1, 0], ["1", True, 1.5, None], "an integer"),
        ("Optional[int]", [1, None], ["1"], "an integer or null"),
        ("bool", [True], [1, "yes"], "true or false"),
        ("float", [1, 0.5], [True, "1"], "a number"),
        ("Seconds", [3], ["3"], "a number"),
        ("Pathlike", ["a"], [1], "a path"),
        ("Union[str, Sequence[str]]", ["a", ["a"], []], [1, [1], {}], "a string or a list of strings"),
        ("str | None", ["a", None], [1], "a string or null"),
        ("Tuple[str, ...]", [["a"]], ["a"], "a list of strings"),
        ("Dict[str, int]", [1, "a", {}], [], None),
        (None, [1, "a"], [], None),
    ],
)
def test_recipe_parameter_types(annotation, good, bad, wanted):
    assert all(expected_kind(annotation, value) is None for value in good)
    assert all(expected_kind(annotation, value) == wanted for value in bad)


def test_recipe_parameter_type_error_position(tmp_path):
    text = "datasets:\n  - name: timit\n    process_params: {num_phones: '48'}\n"
    assert problems(tmp_path, text) == [
        (3, "datasets.0.process_params.num_phones", "prepare_timit takes an integer for 'num_phones'; got \"48\"")
    ]


@given(
    st.sampled_from(["fbank", "mfcc", "spectrogram"]),
    st.one_of(st.none(), st.integers(20, 200)),
    st.sampled_from(["on_the_fly", "lilcom_chunky", "numpy"]),
    st.one_of(st.none(), st.floats(0.5, 1000)),
)
def test_speech_config_round_trip(kind, bins, storage, seconds):
    features = {"type": kind, "storage": storage, **({"num_mel_bins": bins} if kind != "spectrogram" and bins else {})}
    config = LhotseDatasetConfig(name="yesno", features=features, loading={"max_duration": seconds})
    assert LhotseDatasetConfig.model_validate_json(config.model_dump_json()) == config
