"""Task speech recognition: connectionist temporal classification (CTC) over an encoder (Graves et al. 2006)."""

import torch
from torch import Tensor, nn

from model.evaluation_mode import evaluation_mode
from model_factory.training.errors import UnfitError
from model_factory.training.tasks.base import Batch, Task
from model_factory.training.tasks.speech_front import build_augment, wrap_encoder
from model_factory.training.tasks.speech_metrics import word_errors


class SpeechRecognition(Task):
    """CTC loss -log p(transcript | features) in nats per word, and during evaluation the WER of greedy decoding.

    The encoder's vocabulary is that of the data set's tokenizer. Its padding token, which is in no transcript, serves as
    the blank. An utterance without words counts as one word.
    """

    def network(self, model: nn.Module) -> nn.Module:
        """Return the encoder with subsampling and its own head over tokens; raise UnfitError without a tokenizer."""
        if self.setting.tokenizer is None or not getattr(model, "has_head", False):
            raise UnfitError(
                "speech recognition outputs tokens, and the data set has no tokenizer; add tokenizer: {type: characters} to it"
            )
        return wrap_encoder(model, self.setting)

    def weight(self, batch: Batch) -> Tensor:
        """Return the number of words."""
        count = sum(max(1, len(text.split())) for text in batch["text"])
        return torch.tensor(float(count), device=batch["features"].device)

    def __call__(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss of a batch with `features` [B, T, F], `labels` [B, L] and `text`.

        `too_short` is the fraction of words in utterances with fewer positions than their transcript needs. They have no
        alignment, and their loss counts as 0.
        """
        noise = batch["noise"].generators(batch["features"].device) if network.training else None
        logits, lengths = network(batch["features"], batch.get("feature_mask"), build_augment(self.setting, noise))
        labels = batch["labels"]
        mask = batch.get("label_mask")
        counts = torch.full(labels.shape[:1], labels.shape[1], device=labels.device) if mask is None else mask.sum(1)
        losses = nn.functional.ctc_loss(
            logits.float().log_softmax(-1).transpose(0, 1),  # (N, B, V)
            labels,
            lengths,
            counts,
            blank=self.blank,
            reduction="none",
            zero_infinity=True,
        )
        words = self.weight(batch)
        metrics = {
            "loss": losses.sum() / words,
            "too_short": self._count_too_short(batch, labels, lengths, counts) / words,
        }
        if not network.training:
            errors = sum(word_errors(*pair).errors for pair in self._decode_pairs(batch["text"], logits, lengths))
            metrics["wer"] = errors / words
        return metrics

    def samples(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> list[str]:
        """Return reference and greedy transcript of each row, on two lines."""
        with evaluation_mode(network), torch.no_grad():
            logits, lengths = network(batch["features"], batch.get("feature_mask"))
        return ["\n".join(pair) for pair in self._decode_pairs(batch["text"], logits, lengths)]

    @property
    def blank(self) -> int:
        """Return the id of the blank token."""
        assert self.setting.tokenizer is not None
        return self.setting.tokenizer.pad_token_id

    def transcripts(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """Decode logits [B, N, V] greedily over the first `lengths` int [B] positions of each row.

        Repetitions are merged, then blanks are removed.
        """
        assert self.setting.tokenizer is not None
        best = logits.argmax(-1).cpu()
        texts = []
        for row, length in zip(best, lengths.tolist(), strict=True):
            merged = torch.unique_consecutive(row[:length])
            texts.append(self.setting.tokenizer.decode(merged[merged != self.blank].tolist()))
        return texts

    def _decode_pairs(self, texts: list[str], logits: Tensor, lengths: Tensor) -> list[tuple[str, str]]:
        """Pair each reference with its greedy transcript."""
        return list(zip(texts, self.transcripts(logits, lengths), strict=True))

    def _count_too_short(self, batch: Batch, labels: Tensor, lengths: Tensor, counts: Tensor) -> Tensor:
        """Count the words of rows whose labels, with a blank between equal neighbours, exceed their positions."""
        repeats = (labels[:, 1:] == labels[:, :-1]) & (
            torch.arange(1, labels.shape[1], device=labels.device) < counts[:, None]
        )
        words = torch.tensor([max(1.0, len(text.split())) for text in batch["text"]], device=labels.device)
        return words[counts + repeats.sum(1) > lengths].sum()
