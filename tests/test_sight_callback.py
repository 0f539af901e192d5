"""The Lightning callback that watches gradients, and its advice."""

from __future__ import annotations

import csv
import logging
import warnings
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.data import DataLoader

from throughtime import Recurrent, cells
from throughtime.errors import UserError
from throughtime.nn.language_model import LanguageModel
from throughtime.sight import GradientWatch, advice, gradient_flow, horizon

TOKENS, STEPS = 6, 12


class Model(lightning.LightningModule):
    """A user's module: an embedding, our layers, and a linear layer."""

    def __init__(self, cell="gru", **options) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(TOKENS, 4)
        self.layers = Recurrent(cell, 4, 5, 2, **options)
        self.out = nn.Linear(5, TOKENS)

    def loss(self, batch):
        y, _ = self.layers(self.embedding(batch[:-1]))
        return nn.functional.cross_entropy(self.out(y).flatten(0, 1), batch[1:].flatten())

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def batches(number=5, rows=3):
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(TOKENS, (STEPS + 1, rows), generator=generator) for _ in range(number)]


def fit(model, data, tmp_path, callbacks, loggers=(), **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's own warnings about workers and pytrees
        trainer = lightning.Trainer(
            max_epochs=1, accelerator="cpu", logger=list(loggers) or False, callbacks=callbacks,
            enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False,
            default_root_dir=tmp_path, **options,
        )  # fmt: skip
        trainer.fit(model, DataLoader(data, batch_size=None))
    return trainer


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_flow_saturation_and_norm_reach_every_logger(tmp_path):
    watch = GradientWatch(every=2)
    loggers = [CSVLogger(tmp_path, version="csv"), TensorBoardLogger(tmp_path, version="tb")]
    fit(Model(), batches(), tmp_path, [watch], loggers)
    rows = rows_of(tmp_path / "lightning_logs" / "csv" / "metrics.csv")
    assert [int(row["step"]) for row in rows] == [0, 2, 4]
    for row in rows:
        assert float(row["gradient_norm"]) > 0
        for layer in ("layer0", "layer1"):
            assert 1 <= float(row[f"flow/{layer}/horizon"]) <= STEPS - 1
            assert {f"flow/{layer}/lag{lag}" for lag in (1, 2, 4, 8)} <= set(row)
            for gate in ("reset", "update"):
                assert 0 <= float(row[f"saturation/{layer}.{gate}/low"]) <= 1
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "lightning_logs" / "tb")).Reload()
    logged = [event.value for event in events.Scalars("flow/layer1/lag2")]
    np.testing.assert_allclose(logged, [float(row["flow/layer1/lag2"]) for row in rows], rtol=1e-6)


def test_callback_measures_the_flow_of_the_training_loss(tmp_path):
    """The callback uses the gradients that the backward pass left, the function its own loss."""
    model, data = Model(), batches(1)
    watch = GradientWatch(every=1, rows=3, window=5)

    class Before(lightning.Callback):
        def on_train_start(self, trainer, pl_module):
            def loss(given):
                y = pl_module.out(given[0])
                return nn.functional.cross_entropy(y.flatten(0, 1), data[0][1:].flatten())

            x = pl_module.embedding(data[0][:-1]).detach()
            self.flow = gradient_flow(pl_module.layers, x, loss=loss, window=5)

    before = Before()
    fit(model, data, tmp_path, [before, watch])
    assert watch.flow.norms.keys() == before.flow.norms.keys()
    for name, norms in watch.flow.norms.items():
        # float32, with products in a different order
        np.testing.assert_allclose(norms, before.flow.norms[name], rtol=1e-4, atol=1e-9)


def test_callback_does_not_change_a_bit_of_training(tmp_path):
    weights = []
    for callbacks in ([], [GradientWatch(every=1)]):
        model = Model(dropout=0.3)
        torch.manual_seed(2)
        fit(model, batches(), tmp_path, callbacks)
        weights.append([p.detach().clone() for p in model.parameters()])
        assert model.layers.hooks == ()
        assert not model.layers._forward_hooks
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


class Scales(Model):
    """An RNN whose recurrent matrix is a multiple of the identity, so that the gradient's growth is known."""

    def __init__(self, by: float) -> None:
        super().__init__("rnn")
        with torch.no_grad():
            for layer in (0, 1):
                nn.init.zeros_(getattr(self.layers, f"bias_l{layer}"))
                getattr(self.layers, f"weight_h_l{layer}").copy_(by * torch.eye(5))
                getattr(self.layers, f"weight_x_l{layer}").mul_(1e-3)


@pytest.mark.parametrize(("by", "kind"), [(1.8, "explodes"), (0.3, "vanishes")])
def test_warning_is_logged_once_with_layer_lag_and_advice(tmp_path, caplog, by, kind):
    watch = GradientWatch(every=1)
    with caplog.at_level(logging.WARNING, "throughtime"):
        model = Scales(by)
        model.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), lr=0.0)
        fit(model, batches(3), tmp_path, [watch])
    said = [r.getMessage() for r in caplog.records if r.name == "throughtime" and "gradient" in r.getMessage()]
    assert len(said) == 2  # one per layer, not repeated at each step
    assert {each.kind for each in watch.advice} == {kind}
    for layer, text in enumerate(said):
        assert text.startswith(f"step 0: layer{layer}: the gradient {kind}: ")
        assert f"{watch.advice[layer].lag} steps back" in text
        assert ("clipping it by its norm" if kind == "explodes" else "a gated cell (lstm, gru)") in text
        assert "orthogonal initialization" in text


def test_packed_input_and_mixed_precision_work(tmp_path):
    class Packed(Model):
        def training_step(self, batch, batch_idx):
            rows = [self.embedding(batch[:length, k]) for k, length in enumerate((12, 3, 7))]
            y, _ = self.layers(pack_sequence(rows, enforce_sorted=False))
            return self.out(y.data).square().mean()

    watch = GradientWatch(every=1, rows=2)
    fit(Packed("lstm", bidirectional=False), batches(2), tmp_path, [watch], precision="bf16-mixed")
    assert watch.flow.layers == ["layer0", "layer1"]
    assert np.isfinite(watch.flow.by_lag["layer0"]).all()


def test_loss_of_the_last_step_is_followed_from_there(tmp_path):
    class Last(Model):
        def training_step(self, batch, batch_idx):
            y, _ = self.layers(self.embedding(batch[:-1]))
            return nn.functional.cross_entropy(self.out(y[-1]), batch[-1])

    watch = GradientWatch(every=1)
    fit(Last(), batches(1), tmp_path, [watch])
    assert watch.flow.steps.tolist() == [STEPS - 1]


class LanguageModelInTraining(lightning.LightningModule):
    """A language model whose recurrent layers look up the embeddings of its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.model = LanguageModel(TOKENS, Recurrent("lstm", 4, 5))

    def training_step(self, batch, batch_idx):
        total, _ = self.model.loss(batch[:-1], batch[1:])
        return total / batch[1:].numel()

    def train_dataloader(self):
        return DataLoader([torch.randint(TOKENS, (9, 4)) for _ in range(3)], batch_size=None)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_callback_works_on_a_language_model(tmp_path):
    torch.manual_seed(0)
    module = LanguageModelInTraining()
    watch = GradientWatch(every=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lightning.Trainer(
            max_steps=3, max_epochs=-1, accelerator="cpu", logger=False, callbacks=[watch], enable_progress_bar=False,
            enable_checkpointing=False, enable_model_summary=False, default_root_dir=tmp_path,
        ).fit(module)  # fmt: skip
    assert set(watch.flow.horizons) == {"layer0", "layer0.hidden", "layer0.cell", "input"}


def test_models_without_recurrent_layers_and_invalid_arguments_raise(tmp_path):
    class None_(Model):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.GRU(4, 5)

    with pytest.raises(UserError, match="accelerate"):
        fit(None_(), batches(1), tmp_path, [GradientWatch()])
    with pytest.raises(UserError, match="every must be a positive integer, got 0"):
        GradientWatch(every=0)
    with pytest.raises(UserError, match="large must be greater than 1"):
        GradientWatch(large=1.0)


def test_advice_depends_on_the_cell():
    falls = horizon(0.5 ** np.arange(60.0))
    tried = {name: str(advice("layer0", falls, cells.get(name).program(3, 4))) for name in ("rnn", "lstm", "gru")}
    assert "gated cell" in tried["rnn"]
    assert "larger forget-gate bias" in tried["lstm"]
    assert "the gate 'update' keeps more" in tried["gru"]
    assert all("7 steps back 1% of it is left" in text for text in tried.values())
    program = cells.get("rnn").program(3, 4)
    assert advice("layer0", horizon(0.95 ** np.arange(200.0)), program) is None
    assert advice("layer0", horizon(0.5 ** np.arange(60.0)), program, short=5) is None
    assert advice("layer0", horizon(1.5 ** np.arange(20.0)), program).kind == "explodes"
