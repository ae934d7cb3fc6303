"""Write down what is said: connectionist temporal classification over an encoder (Graves et al. 2006)."""

import torch
from torch import Tensor, nn

from training.errors import UnfitError
from training.speech_metrics import word_errors
from training.tasks.base import Batch, Task
from training.tasks.speech_front import build_augment, wrap_encoder


class SpeechRecognition(Task):
    """-log p(transcript | features) in nats a word, and in evaluation the word error rate of greedy decoding.

    The encoder's vocabulary is the data set's tokenizer's, whose padding token serves as the blank: it is in no
    transcript. An utterance without words counts as one word.
    """

    def network(self, model: nn.Module) -> nn.Module:
        """The encoder behind subsampling, its own head giving tokens; raises UnfitError without a tokenizer."""
        if self.setting.tokenizer is None or not getattr(model, "has_head", False):
            raise UnfitError(
                "speech recognition writes tokens, and the data set has no tokenizer; add to it tokenizer: {type: characters}"
            )
        return wrap_encoder(model, self.setting)

    def weight(self, batch: Batch) -> Tensor:
        """Words."""
        count = sum(max(1, len(text.split())) for text in batch["text"])
        return torch.tensor(float(count), device=batch["features"].device)

    def __call__(self, network: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The loss of a batch with `features` [B, T, F], `labels` [B, L] and `text`.

        `too_short` is the share of words in utterances of fewer positions than their transcript needs; they have no
        alignment and add nothing to the loss.
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
        metrics = {"loss": losses.sum() / words, "too_short": self._too_short(batch, labels, lengths, counts) / words}
        if not network.training:
            errors = sum(word_errors(text, told).errors for text, told in self._told(batch["text"], logits, lengths))
            metrics["wer"] = errors / words
        return metrics

    def samples(self, network: nn.Module, batch: Batch, generator: torch.Generator) -> list[str]:
        """Transcript and what is heard, one above the other."""
        was_training = network.training
        network.eval()
        with torch.no_grad():
            logits, lengths = network(batch["features"], batch.get("feature_mask"))
        network.train(was_training)
        return ["\n".join(pair) for pair in self._told(batch["text"], logits, lengths)]

    @property
    def blank(self) -> int:
        """The token that stands for no token."""
        assert self.setting.tokenizer is not None
        return self.setting.tokenizer.pad_token_id

    def transcripts(self, logits: Tensor, lengths: Tensor) -> list[str]:
        """Texts of the likeliest token of logits [B, N, V] at each of the real positions, `lengths` int [B] of them.

        Repetitions and blanks are taken out.
        """
        assert self.setting.tokenizer is not None
        best = logits.argmax(-1).cpu()
        texts = []
        for row, length in zip(best, lengths.tolist(), strict=True):
            merged = torch.unique_consecutive(row[:length])
            texts.append(self.setting.tokenizer.decode(merged[merged != self.blank].tolist()))
        return texts

    def _told(self, texts: list[str], logits: Tensor, lengths: Tensor) -> list[tuple[str, str]]:
        return list(zip(texts, self.transcripts(logits, lengths), strict=True))

    def _too_short(self, batch: Batch, labels: Tensor, lengths: Tensor, counts: Tensor) -> Tensor:
        """Words of rows whose labels, with a blank between equal neighbours, do not fit into their positions."""
        twins = (labels[:, 1:] == labels[:, :-1]) & (
            torch.arange(1, labels.shape[1], device=labels.device) < counts[:, None]
        )
        words = torch.tensor([max(1.0, len(text.split())) for text in batch["text"]], device=labels.device)
        return words[counts + twins.sum(1) > lengths].sum()
