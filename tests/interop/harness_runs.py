"""Runs and local tasks for tests of lm-evaluation-harness."""

import json
from pathlib import Path

from tests.evaluation.untrained_runs import BACKBONE, DECODER, MDLM, make_run, text_data

ABCD = "abcd\n"
BD3LM = {
    **MDLM,
    "objective": {"type": "bd3lm", "block_size": 3},
    "backbone": {**BACKBONE, "type": "ddit", "cond_dim": 8},
}
SEDD = {**MDLM, "objective": {"type": "sedd"}}
UDLM = {**MDLM, "process": {"type": "uniform"}, "objective": {"type": "udlm"}}
GIDD = {**MDLM, "process": {"type": "hybrid"}, "objective": {"type": "gidd"}}
MODELS = {"mdlm": MDLM, "bd3lm": BD3LM, "sedd": SEDD, "udlm": UDLM, "gidd": GIDD}


def harness_run(folder: Path, model: dict = MDLM, task: str = "diffusion", **data) -> Path:
    """Write the run folder of an untrained model on characters."""
    return make_run(folder, model, text_data(folder / "data", **data), task)


def decoder_run(folder: Path, **data) -> Path:
    """Write the run folder of an untrained decoder on characters."""
    return harness_run(folder, DECODER, "language_modelling", **data)


def local_tasks(folder: Path) -> Path:
    """Write three tasks of local files: rolling likelihood, multiple choice and generation."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "text": f"the quick brown fox jumps {word}. " * 2,
            "question": f"the {word}",
            "choices": ["dog", "fox jumps"],
            "gold": number % 2,
        }
        for number, word in enumerate(("over", "the lazy dog", "and"))
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = f"dataset_path: json\ndataset_kwargs:\n  data_files: {{test: {folder / 'rows.jsonl'}}}\ntest_split: test\nmetadata: {{version: 1}}\n"
    (folder / "rolling.yaml").write_text(
        f"task: local_rolling\n{shared}output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{{{text}}}}'\n"
        "metric_list:\n  - metric: bits_per_byte\n  - metric: word_perplexity\n"
    )
    (folder / "choice.yaml").write_text(
        f"task: local_choice\n{shared}output_type: multiple_choice\ndoc_to_text: '{{{{question}}}}'\n"
        "doc_to_choice: '{{choices}}'\ndoc_to_target: gold\nmetric_list:\n  - metric: acc\n  - metric: acc_norm\n"
    )
    (folder / "generate.yaml").write_text(
        f"task: local_generate\n{shared}output_type: generate_until\ndoc_to_text: '{{{{question}}}}'\ndoc_to_target: dog\n"
        "generation_kwargs: {until: ['.'], max_gen_toks: 6, do_sample: false}\nmetric_list:\n  - metric: exact_match\n"
    )
    return folder
