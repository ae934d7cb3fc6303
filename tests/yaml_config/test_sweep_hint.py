"""`--set a.b=1,2` to a verb that takes one value: the error names the verb `sweep`; strings and lists with commas stay."""

from pathlib import Path

import pytest

from model_factory.experiment.config import read_experiment
from model_factory.yaml_config.errors import ConfigError

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "full_experiment.yml"


def message_of(option: str) -> str:
    with pytest.raises(ConfigError) as found:
        read_experiment(CONFIG, [option])
    return next(problem.message for problem in found.value.problems if problem.place.file == f"--set {option}")


@pytest.mark.parametrize(
    "option",
    [
        "training.learning_rate=1e-4,3e-4",
        "training.learning_rate=1e-4, 3e-4,1e-3",
        "training.max_steps=100,200",
        "training.bf16=true,false",
        "training.ema_decay=0.9,null",
        "training.lr_scheduler_type=cosine,linear",
        "datasets.0.tokenizer.type=bytes,characters",
        "model.model_type=encoder,decoder",
    ],
)
def test_several_values_of_a_scalar_name_the_sweep(option: str) -> None:
    assert message_of(option).endswith(f"; to train with each of these values: model-factory sweep --set {option}")


def test_number_with_a_comma_keeps_its_suggestion() -> None:
    assert "write 0.5; to train with each of these values:" in message_of("training.learning_rate=0,5")


@pytest.mark.parametrize(
    "option",
    [
        "training.learning_rate=1e-4",
        "training.learning_rate=1e-4,x",
        "training.learning_rate=1e-4,",
        "training.learning_rate=[1e-4,3e-4]",
        "training.stages=1,2",
        "training.lr_scheduler_type=x,y",
    ],
)
def test_other_errors_do_not_name_the_sweep(option: str) -> None:
    if option == "training.learning_rate=1e-4":
        assert read_experiment(CONFIG, [option]).config.training.learning_rate == 1e-4
    else:
        assert "sweep" not in message_of(option)


def test_strings_and_lists_with_commas_are_values(tmp_path: Path) -> None:
    found = read_experiment(CONFIG, ["model.name=a,b", f"training.init_from={tmp_path}/a,b"], will_train=False).config
    assert found.model.name == "a,b"
    assert str(found.training.init_from).endswith("/a,b")
