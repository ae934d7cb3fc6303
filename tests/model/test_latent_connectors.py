"""The fifteen connectors: building, a training step, saving and loading in two precisions, and their structure."""

import json

import pytest
import torch

from model.checkpoint import CheckpointError
from model.latent.connectors.hugging_face import ConnectorError
from model.latent.connectors.pooling import masked_mean
from model.latent.connectors.published import DECODERS, ENCODERS, MODEL_CLASS
from model.transformer.inputs import InputError
from tests.model.latent_parts import LATENT, VOCAB, config, connector

NEW_ONES = [name for name in MODEL_CLASS if "New" in name]


def called(model):
    torch.manual_seed(2)
    ids = torch.randint(3, VOCAB, (2, 5))
    if isinstance(model, tuple(ENCODERS)):
        return model.linear(model(ids, torch.ones_like(ids)).pooled)
    latent = torch.randn(2, LATENT, dtype=next(model.parameters()).dtype)
    options = {"labels": ids, "label_ignore": 0} if isinstance(model, tuple(DECODERS)) else {}
    return model(input_ids=ids, past=latent, **options)[0]


def test_connectors_are_fifteen():
    assert len(MODEL_CLASS) == 15
    assert all(name == kind.__name__ for name, kind in MODEL_CLASS.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MODEL_CLASS)
def test_connector_trains_a_step_saves_and_loads(name, dtype, tmp_path):
    model = connector(name).to(dtype)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.optim.SGD(model.parameters(), lr=1.0).zero_grad()
    called(model).float().square().sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    assert any(not torch.equal(before[key], value) for key, value in model.state_dict().items())
    model.save_pretrained(tmp_path)
    again = MODEL_CLASS[name].from_pretrained(tmp_path)
    assert again.state_dict().keys() == before.keys()
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    assert {value.dtype for value in again.parameters()} == {dtype}
    assert torch.equal(called(model.eval()), called(again.eval()))


@pytest.mark.parametrize("name", NEW_ONES)
def test_new_connectors_train_one_layer_and_freeze_the_backbone(name):
    model = connector(name)
    called(model).float().square().sum().backward()
    frozen = [key for key, value in model.named_parameters() if not value.requires_grad]
    trained = [
        key for key, value in model.named_parameters() if value.grad is not None and bool(value.grad.abs().sum())
    ]
    assert frozen
    assert not set(frozen) & set(trained)
    assert any("top_layer" in key or ".h.0." in key for key in trained)
    assert not any(".h.1." in key or "backbone.encoder" in key for key in trained)


@pytest.mark.parametrize("name", ["GPT2ForLatentConnectorNew", "GPT2ForLatentConnectorNew2"])
def test_connector_new_block_is_first_and_change_order_is_a_noop(name):
    model = connector(name)
    blocks = model.transformer.backbone.h
    assert [block.attn.layer_idx for block in blocks] == [0, 1, 2]
    assert [block.mlp.c_fc.nf for block in blocks] == [12 * 16 if name.endswith("2") else 64, 64, 64]
    assert model.transformer.linear.weight.shape == (16 * 3, LATENT)  # a kv prefix in the new layer as well
    before = called(model.eval())
    model.change_order()
    assert torch.equal(before, called(model))


@pytest.mark.parametrize("name", ["GPT2ForLatentConnectorNew", "GPT2ForLatentConnector", "BertForLatentConnectorNew"])
def test_connector_loads_pretrained_weights(name, tmp_path):
    from transformers import AutoModel

    kind = MODEL_CLASS[name]
    torch.manual_seed(5)
    plain = AutoModel.from_config(config(kind.architectures[0]))
    plain.save_pretrained(tmp_path)
    model = kind.from_pretrained(tmp_path, latent_size=LATENT)
    backbone = model.backbone if hasattr(model, "backbone") else model.transformer.backbone
    own, theirs = backbone.state_dict(), plain.state_dict()
    shift = int("GPT2" in name and "New" in name)
    moved = {key: ".".join(_moved(key, shift)) for key in theirs if not key.startswith("pooler")}
    assert all(torch.equal(own[new], theirs[key]) for key, new in moved.items())


def _moved(key, shift):
    words = key.split(".")
    return [str(int(word) + shift) if words[0] == "h" and index == 1 else word for index, word in enumerate(words)]


@pytest.mark.parametrize("name", ["BertForLatentConnectorNew", "GPT2ForLatentConnectorNew2"])
def test_connector_added_tokens_survive_saving(name, tmp_path):
    model = connector(name)
    model.resize_token_embeddings(VOCAB + 3)
    ids = torch.full((2, 4), VOCAB + 2)
    given = {"attention_mask": torch.ones_like(ids)} if "Bert" in name else {"past": torch.randn(2, LATENT)}
    before = model.eval()(ids, **given)[0]
    model.save_pretrained(tmp_path)
    assert torch.equal(MODEL_CLASS[name].from_pretrained(tmp_path).eval()(ids, **given)[0], before)


def test_t5_connector_loads_an_encoder_only_folder(tmp_path):
    from transformers import T5EncoderModel

    plain = T5EncoderModel(config("t5"))
    plain.save_pretrained(tmp_path)
    model = MODEL_CLASS["T5EncoderForLatentConnector"].from_pretrained(tmp_path, latent_size=LATENT).eval()
    ids = torch.randint(3, VOCAB, (2, 5))
    wanted = plain.eval()(input_ids=ids)[0]
    torch.testing.assert_close(model(ids, torch.ones_like(ids)).sequence, wanted)


def test_connector_poolers_differ_as_published():
    ids = torch.randint(3, VOCAB, (2, 5))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    first, mean = (
        connector(name).eval()(ids, mask) for name in ("BertForLatentConnector", "BertForLatentConnectorAVG")
    )
    assert torch.equal(first.unpooled, first.sequence[:, 0])
    torch.testing.assert_close(mean.unpooled[0], mean.sequence[0, :3].mean(0))
    assert torch.equal(mean.unpooled, masked_mean(mean.sequence, mask.bool()))
    deberta = connector("DebertaForLatentConnector").eval()
    pooled = deberta(ids, mask)
    wanted = torch.nn.functional.gelu(deberta.pooler.dense(pooled.sequence[:, 0]))
    torch.testing.assert_close(pooled.pooled, wanted)


@pytest.mark.parametrize("kind", ENCODERS, ids=lambda kind: kind.__name__)
def test_connector_encoding_ignores_other_rows_and_padding(kind):
    encoder = connector(kind.__name__).eval()
    ids = torch.randint(3, VOCAB, (3, 6))
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1] * 6, [1, 1, 0, 0, 0, 0]])
    changed = ids.clone()
    changed[1] = 5
    changed[0, 3:] = 9
    before, after = encoder(ids, mask).pooled, encoder(changed, mask).pooled
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.equal(before[1], after[1])


def test_connector_mask_defaults_to_pad_id():
    encoder = connector("BertForLatentConnector", pad_id=7).eval()
    ids = torch.tensor([[3, 4, 5, 7, 7]])
    assert torch.equal(encoder(ids).pooled, encoder(ids, (ids != 7).long()).pooled)
    with pytest.raises(InputError, match=r"texts \[1\] of the batch are empty.*pad_id 7"):
        encoder(torch.tensor([[3, 4], [7, 7]]))


def test_connector_errors(tmp_path):
    with pytest.raises(ConnectorError, match="needs a config of bert, and was given a GPT2Config"):
        MODEL_CLASS["BertForLatentConnector"](config("gpt2"))
    with pytest.raises(ValueError, match="routes is empty"):
        connector("GPT2ForLatentConnector", latent_as_gpt_emb=False, latent_as_gpt_memory=False)
    model = connector("BertForLatentConnector")
    model.save_pretrained(tmp_path)
    with pytest.raises(ConnectorError, match="load it with BertForLatentConnector"):
        MODEL_CLASS["BertForLatentConnectorAVG"].from_pretrained(tmp_path)
    with pytest.raises(ConnectorError, match="was saved with latent_size 6, and 12 was given"):
        MODEL_CLASS["BertForLatentConnector"].from_pretrained(tmp_path, latent_size=2 * LATENT)
    content = json.loads((tmp_path / "connector.json").read_text())
    (tmp_path / "connector.json").write_text(json.dumps(content | {"schema_version": 99}))
    with pytest.raises(ConnectorError, match="schema_version is 99"):
        MODEL_CLASS["BertForLatentConnector"].from_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    (tmp_path / "connector.json").write_text(json.dumps(content))
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="damaged or not a safetensors file"):
        MODEL_CLASS["BertForLatentConnector"].from_pretrained(tmp_path)
