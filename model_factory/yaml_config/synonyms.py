"""Names that other tools give to the keys of a file, so that an unknown key is answered with ours.

The names are those of transformers.TrainingArguments and its model configs, Lightning, axolotl, nanoGPT, MDLM, SEDD, LLaDA,
ESPnet and TS-DIA.
"""

import re
from collections.abc import Collection
from typing import NamedTuple


class Synonym(NamedTuple):
    """Our key for a name of another tool: its full path in the file or another remedy, its unit, and a remark.

    `target` is empty for a name that no key of ours replaces.
    """

    target: str
    unit: str = ""
    remark: str = ""

    @property
    def key(self) -> str:
        """Return the last part of the path."""
        return self.target.rpartition(".")[2]

    def hint(self, fix: str) -> str:
        """Return the end of a message that proposes `fix`, with the unit; or to leave the key out."""
        if not self.target:
            return f"; leave it out: {self.remark}"
        unit = f" [{self.unit}]" if self.unit else ""
        return f"; here it is {fix}{unit}" + (f": {self.remark}" if self.remark else "")


_SECONDS = "seconds, not samples"
_TABLE: tuple[tuple[Synonym, str], ...] = (
    # sections
    (Synonym("model"), "architecture network net"),
    (Synonym("datasets"), "data dataset data_config data_args train_data data_module"),
    (Synonym("training"), "train trainer train_config training_args training_arguments optimization optim_conf"),
    (Synonym("generation"), "sampling sample inference decoding generate generation_config"),
    # training
    (Synonym("training.learning_rate", "1"), "lr base_lr max_lr peak_lr"),
    (
        Synonym("training.max_steps", "steps"),
        "max_iters total_steps train_steps training_steps num_train_steps max_train_steps max_updates num_iterations",
    ),
    (Synonym("training.num_train_epochs", "epochs"), "epochs num_epochs n_epochs max_epochs max_epoch"),
    (Synonym("training.warmup_ratio", "share"), "warmup_proportion warmup_fraction pct_start"),
    (
        Synonym("training.batch_size", "rows", "those of one device"),
        "per_device_train_batch_size per_device_eval_batch_size micro_batch_size train_batch_size micro_bsz bsz batch",
    ),
    (
        Synonym("training.gradient_accumulation_steps", "batches"),
        "accumulate_grad_batches accum_grad grad_accum grad_accum_steps gradient_accumulation",
    ),
    (
        Synonym("training.max_grad_norm", "1"),
        "gradient_clip_val grad_clip clip_grad clip_grad_norm gradient_clipping gradient_clip max_norm",
    ),
    (Synonym("training.bf16", "", "true or false, or fp16"), "precision mixed_precision dtype amp use_amp half"),
    (Synonym("training.optim"), "optimizer optimizer_name optimizer_type"),
    (Synonym("training.lr_scheduler_type"), "lr_scheduler scheduler lr_schedule schedule_type decay_lr"),
    (Synonym("training.warmup_steps", "steps"), "warmup_iters num_warmup_steps lr_warmup_steps warmup warmup_updates"),
    (
        Synonym("training.eval_steps", "steps"),
        "eval_strategy evaluation_strategy eval_interval val_check_interval eval_every evaluation_steps evals_per_epoch "
        "check_val_every_n_epoch",
    ),
    (
        Synonym("training.save_steps", "steps"),
        "save_strategy save_every save_interval checkpoint_every checkpoint_interval every_n_train_steps saves_per_epoch",
    ),
    (Synonym("training.logging_steps", "steps"), "log_interval log_every log_every_n_steps log_freq logging_strategy"),
    (Synonym("training.max_eval_samples", "rows"), "eval_iters limit_val_batches eval_samples"),
    (Synonym("training.early_stopping_patience", "evaluations"), "patience early_stopping"),
    (Synonym("training.save_total_limit", "checkpoints"), "save_top_k keep_nbest_models keep_last_n max_checkpoints"),
    (Synonym("training.adam_beta1", "1"), "beta1 betas adam_betas"),
    (Synonym("training.adam_beta2", "1"), "beta2"),
    (Synonym("training.adam_epsilon", "1"), "eps adam_eps epsilon"),
    (Synonym("training.weight_decay", "1"), "wd l2"),
    (Synonym("training.torch_compile"), "compile compile_model use_compile"),
    (Synonym("training.ema_decay", "1"), "ema ema_rate use_ema"),
    (Synonym("training.report_to"), "logger log_with use_wandb wandb use_tensorboard"),
    (Synonym("training.project"), "wandb_project project_name"),
    (Synonym("training.run_name"), "wandb_name wandb_run_name experiment_name"),
    (
        Synonym("training.init_from"),
        "base_model model_name_or_path pretrained_model_name_or_path init_param pretrained finetune_from load_checkpoint",
    ),
    (Synonym("training.dataloader_num_workers", "processes"), "num_workers workers n_workers"),
    (Synonym("training.seed", "1"), "seed random_seed manual_seed"),
    (
        Synonym("training.activation_checkpointing", "", "none, selective or full"),
        "gradient_checkpointing use_gradient_checkpointing gradient_checkpointing_enable checkpoint_activations "
        "fsdp_activation_checkpointing selective_ac recompute",
    ),
    (Synonym("training.fsdp"), "strategy sharding fsdp_config deepspeed"),
    (Synonym("training.lora.r", "rank"), "lora_r lora_rank rank"),
    (Synonym("training.lora"), "adapter peft peft_config lora_config"),
    (Synonym("training.task"), "objective_type task_type"),
    (
        Synonym("--output RUN", "", "an option of the command"),
        "output_dir out_dir save_dir default_root_dir log_dir expdir",
    ),
    (Synonym("--resume", "", "an option of the command"), "resume_from_checkpoint resume auto_resume_from_checkpoints"),
    (
        Synonym("torchrun --nproc_per_node N train.py", "", "the number of processes is the launcher's"),
        "devices gpus n_gpu ngpu num_gpus num_nodes world_size",
    ),
    # networks
    (Synonym("model.encoder.device"), "device accelerator"),
    (
        Synonym("model.encoder.d_model", "channels"),
        "hidden_size n_embd hidden_dim embed_dim embedding_dim model_dim emb_dim attention_dim output_size adim dim width",
    ),
    (
        Synonym("model.encoder.num_layers", "layers"),
        "n_layer n_layers num_hidden_layers num_blocks n_blocks depth layers elayers dlayers encoder_layers decoder_layers",
    ),
    (
        Synonym("model.encoder.num_heads", "heads"),
        "n_head n_heads num_attention_heads attention_heads heads nhead aheads num_attention_head",
    ),
    (Synonym("model.encoder.num_kv_heads", "heads"), "num_key_value_heads n_kv_heads num_query_groups"),
    (
        Synonym("model.encoder.d_ff", "1", "the factor by which the inner layer is wider than d_model"),
        "intermediate_size n_inner ffn_dim d_inner dim_feedforward linear_units eunits mlp_ratio ffn_hidden_size",
    ),
    (
        Synonym("model.encoder.dropout", "probability"),
        "dropout_rate hidden_dropout_prob hidden_dropout resid_pdrop attn_pdrop embd_pdrop attention_dropout p_dropout",
    ),
    (
        Synonym("model.encoder.max_length", "tokens"),
        "max_position_embeddings n_positions n_ctx max_source_positions max_target_positions block_size max_seq_len "
        "context_length",
    ),
    (Synonym("model.encoder.vocab_size", "tokens"), "n_vocab vocabulary_size num_tokens num_embeddings"),
    (Synonym("model.encoder.input_dim", "channels"), "input_size idim feature_dim n_features in_dim"),
    (Synonym("model.encoder.activation"), "hidden_act activation_function act_fn activation_type"),
    (Synonym("model.encoder.tie_embeddings"), "tie_word_embeddings share_embeddings weight_tying"),
    (Synonym("model.encoder.attention_type"), "attention attn_type attention_mechanism attn_implementation"),
    (
        Synonym("model.encoder.position"),
        "position_embedding_type positional_encoding pos_encoding pos_enc pos_enc_layer_type use_rope rope rotary",
    ),
    (Synonym("model.backbone: {type: performer, attention_type: NAME}"), "attention_type"),
    (Synonym("model.process"), "graph noise_type forward_process corruption"),
    (Synonym("model.schedule"), "noise noise_schedule beta_schedule"),
    (Synonym("model.objective"), "parameterization loss loss_type diffusion_type"),
    (Synonym("model.backbone"), "denoiser backbone_type transformer"),
    (
        Synonym("", "", "only the backbones ddit, performer and bert have a convolution over token embeddings"),
        "local_width local_groups",
    ),
    # data
    (
        Synonym("datasets.0.sequence_length", "tokens"),
        "block_size max_length max_seq_length max_seq_len sequence_len seq_len seq_length max_len context_length chunk_size",
    ),
    (
        Synonym("datasets.0.data_files"),
        "train_file train_files train_path data_path data_dir dataset_path files file input_file validation_file",
    ),
    (
        Synonym("datasets.0.column", "", "of the sources json, csv, parquet, disk and hub"),
        "text_column text_field text_key content_column dataset_text_field",
    ),
    (Synonym("datasets.0.rows"), "packing sample_packing pack wrap group_texts"),
    (Synonym("datasets.0.splits", "share"), "val_set_size val_split validation_split test_size train_test_split"),
    (
        Synonym("datasets.0.tokenizer"),
        "tokenizer_name tokenizer_name_or_path tokenizer_path tokenizer_type token_type bpemodel",
    ),
    (Synonym("datasets.0.num_proc", "processes"), "preprocessing_num_workers num_preprocess_workers dataset_num_proc"),
    (Synonym("datasets.0.streaming"), "stream iterable"),
    (Synonym("datasets.0.repo"), "dataset_name hf_name hub_name hf_repo"),
    (Synonym("datasets.0.config"), "dataset_config dataset_config_name subset_name"),
    (Synonym("datasets.0.bucketing"), "group_by_length length_grouped_samples length_column_name"),
    (Synonym("global_config.output_dir"), "cache_dir dataset_prepared_path preprocessed_dir"),
    (Synonym("datasets.0.features.num_mel_bins", "bins"), "n_mels n_mel_channels num_mels mel_bins num_filters"),
    (Synonym("datasets.0.features.type"), "feature_type"),
    (Synonym("datasets.0.features.storage"), "storage_type"),
    (Synonym("datasets.0.loading.num_workers", "processes", "they also compute stored features"), "num_jobs"),
    (Synonym("datasets.0.loading"), "data_loading"),
    (Synonym("datasets.0.windows.seconds", "s"), "cut_window_seconds"),
    (Synonym("global_config.output_dir", "", "stored features are below it"), "storage_path"),
    (Synonym("OMP_NUM_THREADS=N", "", "an environment variable"), "torch_threads"),
    (Synonym("", "", "progress is shown on a terminal"), "progress_bar"),
    (Synonym("", "", "cuts are mixed when their features are computed"), "mix_eagerly"),
    (Synonym("", "", "the energy of a frame is computed before its window"), "raw_energy"),
    (Synonym("", "", "features are computed from the power spectrum"), "use_fft_mag"),
    (Synonym("", "", "mel filters are not normalised"), "norm_filters"),
    (Synonym("", "", "the mel scale is Kaldi's, as in torchaudio"), "torchaudio_compatible_mel_scale"),
    (Synonym("datasets.0.sampling_rate", "Hz"), "sample_rate fs sr"),
    (Synonym("datasets.0.features.frame_shift", "s", _SECONDS), "hop_length hop_size hop_ms"),
    (Synonym("datasets.0.features.frame_length", "s", _SECONDS), "win_length window_size n_fft window_ms"),
    (Synonym("datasets.0.loading.max_duration", "s"), "batch_bins max_batch_seconds max_batch_duration max_duration"),
    (Synonym("datasets.0.speed_perturbation.factors", "1"), "speed_perturb_factors speed_factors"),
    # generation
    (Synonym("generation.num_samples", "samples"), "num_return_sequences n_samples num_sample_batches num_generations"),
    (
        Synonym("generation.max_new_tokens", "tokens"),
        "gen_length max_gen_length max_gen_len max_length max_tokens generation_length max_dec_len",
    ),
    (
        Synonym("generation.steps", "steps"),
        "num_steps sampling_steps diffusion_steps num_inference_steps denoising_steps sample_steps",
    ),
    (Synonym("generation.sampler"), "predictor sampling_method remasking remasking_strategy"),
    (Synonym("generation.guidance", "1"), "cfg_scale guidance_scale cfg cfg_w"),
    (Synonym("generation.num_beams", "beams"), "beam_size beam_width beams"),
    (Synonym("generation.temperature", "1"), "temp softmax_temperature"),
    (Synonym("generation.top_p", "probability"), "nucleus_p nucleus p_nucleus"),
)


def _by_name() -> dict[str, list[Synonym]]:
    found: dict[str, list[Synonym]] = {}
    for synonym, names in _TABLE:
        for name in names.split():
            found.setdefault(name, []).append(synonym)
    return found


SYNONYMS = _by_name()
"""Our keys for each name of another tool; a name may mean several, according to its section."""


def find_synonym(name: str, section: str, known: Collection[str]) -> tuple[Synonym, str, bool] | None:
    """Return our key for a name of another tool, how to write it in `section`, and True if it belongs there.

    A key that is `known` in the section is written alone, one inside of it without the section's path, any other with its
    full path. A name may mean several keys: the first that belongs into the section is chosen, else the first of the
    same part of the file, else the first. None for a name that is in no table.
    """
    synonyms = [_moved(synonym, section) for synonym in SYNONYMS.get(name, ())]
    for synonym in synonyms:
        if synonym.key in known:
            return synonym, synonym.key, True
    for synonym in synonyms:
        if section and synonym.target.startswith(f"{section}.") and synonym.target != f"{section}.{synonym.key}":
            return synonym, synonym.target.removeprefix(f"{section}."), True
    part = section.partition(".")[0]
    elsewhere = [synonym for synonym in synonyms if synonym.target != f"{section}.{name}"]
    ranked = sorted(elsewhere, key=lambda synonym: not synonym.target.startswith(f"{part}."))
    return (ranked[0], ranked[0].target, False) if ranked else None


def _moved(synonym: Synonym, section: str) -> Synonym:
    """Return the synonym with the number of the data set that `section` is in."""
    entry = re.match(r"datasets\.\d+", section)
    return synonym._replace(target=re.sub(r"^datasets\.0", entry[0], synonym.target)) if entry else synonym
