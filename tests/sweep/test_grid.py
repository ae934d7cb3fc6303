"""Options of a sweep: values, ranges, seeds, and names of run folders."""

import pytest

from model_factory.sweep.grid import (
    Range,
    SweepUsageError,
    folder_name,
    points_of,
    probe_points,
    read_axes,
    short_names,
)

RATE = "training.learning_rate"


@pytest.mark.parametrize(
    ("option", "texts"),
    [
        (f"{RATE}=1e-4,3e-4, 1e-3", ("1e-4", "3e-4", "1e-3")),
        ("model.backbone.ff=[1,2],[3, 4]", ("[1,2]", "[3, 4]")),
        ("generation.sampler={type: ddim, eta: 0.5},ddpm", ("{type: ddim, eta: 0.5}", "ddpm")),
        ("model.name='a,b',\"c,d\",it's", ("'a,b'", '"c,d"', "it's")),
        ("training.ema_decay=0.9,null", ("0.9", "null")),
        ("training.bf16=true,false", ("true", "false")),
    ],
)
def test_values_are_split_outside_of_brackets_and_quotes(option: str, texts: tuple[str, ...]) -> None:
    axes, fixed = read_axes([option, "training.max_steps=3", "model.x=[1,2]"], None, with_ranges=False)
    assert [axis.texts for axis in axes] == [texts]
    assert fixed == ["training.max_steps=3", "model.x=[1,2]"]


def test_grid_has_all_combinations_with_readable_names() -> None:
    axes, _ = read_axes([f"{RATE}=3e-4,1e-3"], "0,1", with_ranges=False)
    points = points_of(axes)
    assert [point.name for point in points] == [
        f"learning_rate={rate},seed={seed}" for rate in ("0.0003", "0.001") for seed in (0, 1)
    ]
    assert points[1].overrides == (f"{RATE}=3e-4", "training.seed=1")


def test_names_are_short_safe_and_differ() -> None:
    assert short_names(["model.encoder.d_model", "model.decoder.d_model", "datasets.0", RATE]) == [
        "encoder.d_model",
        "decoder.d_model",
        "datasets.0",
        "learning_rate",
    ]
    names = {folder_name([("path", text)]) for text in ("a/b", "a b", "a_b", "../a", "x" * 300, "x" * 301, "é")}
    assert len(names) == 7
    assert all(name.isascii() and "/" not in name and len(name) < 200 and " " not in name for name in names)
    assert len(folder_name([(f"key{number}", "x" * 30) for number in range(9)])) <= 180


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-5..1e-2:log", Range(1e-5, 1e-2, log=True)),
        ("2..8", Range(2, 8)),
        ("0..0.5", Range(0.0, 0.5)),
        ("-1..1", Range(-1, 1)),
    ],
)
def test_ranges(text: str, expected: Range) -> None:
    axes, _ = read_axes([f"{RATE}={text}", "training.optim=a,b"], None, with_ranges=True)
    assert axes[0].range == expected
    assert axes[0].range.is_integer == isinstance(expected.low, int)
    probes = [point.overrides for point in probe_points(axes)]
    low, high = (f"{RATE}={end!r}" for end in (expected.low, expected.high))
    assert probes == [(low, "training.optim=a"), (high, "training.optim=a"), (low, "training.optim=b")]


@pytest.mark.parametrize(
    ("options", "seeds", "message"),
    [
        ([], None, "a sweep needs a key with several values"),
        ([f"{RATE}=1e-4"], None, "a sweep needs a key with several values"),
        ([f"{RATE}=1e-4,"], None, "has an empty value"),
        ([f"{RATE}=1e-4,0.0001"], None, "has the value 0.0001 twice"),
        ([f"{RATE}=1..2"], None, "is a range, which needs --search optuna"),
        ([f"{RATE}=1,2", f"{RATE}=3"], None, f"two options --set give values of {RATE}"),
        (["training.seed=1,2"], "0,1", "--seeds and --set give values of training.seed"),
        ([], "0,x", "--seeds takes numbers from 0 to 4294967295"),
        ([], "0,00", "names a seed twice"),
        ([], "4294967296", "--seeds takes numbers"),
        ([], "", "--seeds takes numbers"),
    ],
)
def test_wrong_options_name_what_to_write(options: list[str], seeds: str | None, message: str) -> None:
    with pytest.raises(SweepUsageError, match=message):
        read_axes(options, seeds, with_ranges=False)


@pytest.mark.parametrize(("text", "message"), [("2..1", "LOW below HIGH"), ("0..1:log", "begins above 0")])
def test_wrong_ranges(text: str, message: str) -> None:
    with pytest.raises(SweepUsageError, match=message):
        read_axes([f"{RATE}={text}"], None, with_ranges=True)


def test_grid_of_too_many_points() -> None:
    many = ",".join(map(str, range(101)))
    axes, _ = read_axes([f"{RATE}={many}", f"training.max_steps={many}"], None, with_ranges=False)
    with pytest.raises(SweepUsageError, match="10,201 points, and may have 10,000"):
        points_of(axes)
