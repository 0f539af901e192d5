"""A custom task is one small class; everything else works with it unchanged."""

import numpy as np
import pytest
import torch

import throughtime
from throughtime.codecs import Codecs
from throughtime.data.labels import Labels
from throughtime.data.sequences import Sequences
from throughtime.options import Count
from throughtime.outputs import Categorical
from throughtime.runs import Run
from throughtime.tasks.base import Data, Interface, Prediction
from throughtime.tasks.options import SequenceOptions
from throughtime.tasks.sequences import SequenceTask, all_raw_outputs
from throughtime.training import fit
from throughtime.training.inference import Inference


class ParityOptions(SequenceOptions):
    """Options of the parity task.

    Attributes:
        bits: the maximum number of bits per sequence.
    """

    task: str = "parity"
    bits: Count = 6


class Parity(SequenceTask):
    name, about, Options = "parity", "tell whether a sequence of bits has an odd number of ones", ParityOptions
    prediction_files = (".txt",)

    def sequences(self, count, seed):
        draw = np.random.default_rng(seed)
        inputs = [draw.integers(0, 2, draw.integers(1, self.options.bits + 1)) for _ in range(count)]
        return Sequences(inputs, np.array([bits.sum() % 2 for bits in inputs]))

    def prepare(self, progress=None, codecs=None):
        train, valid = self.sequences(400, 0), self.sequences(100, 1)
        codecs = Codecs(None, Labels(("even", "odd")))
        return Data("random bits", codecs, train, valid, None, train.digest, {"train": 400, "valid": 100})

    def read(self, paths, codecs, progress=None):
        bits = [np.array([int(bit) for bit in path]) for path in paths]
        return Sequences(bits, np.array([each.sum() % 2 for each in bits]))

    def interface(self, codecs):
        return Interface("embedding", 2, Categorical(2), per_step=False)

    def predict(self, model, part, codecs):
        raws = all_raw_outputs(model, part)
        return Prediction(("label",), ([codecs.targets.names[int(raw.argmax())]] for raw in raws))

    def write_prediction(self, model, paths, codecs, out, progress):
        rows = self.predict(model, self.read(paths, codecs), codecs).rows
        out.write_text("".join(f"{label}\n" for (label,) in rows))
        return f"{len(paths)} labels"


SMALL = {"hidden_size": 12, "dropout": 0.0, "threads": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("parity") / "run"
    return throughtime.train(task=Parity, out=out, lr=0.02, epochs=40, progress=False, **SMALL)


def test_a_custom_task_supports_all_commands(run, tmp_path):
    assert run.result["valid"]["loss"] < 0.1
    again = Run.open(run.path)
    assert again.task.options.bits == 6
    assert throughtime.evaluate(again, ["1011", "0"])["loss"] < 0.1
    assert [row for (row,) in throughtime.predict(again, ["1011", "0"]).rows] == ["odd", "even"]
    assert Inference.of(again, ["1011", "0"]).write_prediction(tmp_path / "labels.txt") == "2 labels"
    assert (tmp_path / "labels.txt").read_text() == "odd\neven\n"
    assert run.report.is_file()


def test_tables_and_files_of_predictions_use_the_network_on_the_runs_device(run, tmp_path, monkeypatch):
    devices = []

    def predict(self, model, part, codecs):
        devices.append(next(model.parameters()).device.type)
        return Prediction(("label",), ())

    monkeypatch.setattr(Parity, "predict", predict)
    monkeypatch.setattr("throughtime.training.building.device_for", lambda training: torch.device("meta"))
    inference = Inference.of(run, ["1011"])
    inference.predict()
    inference.write_prediction(tmp_path / "labels.txt")
    assert devices == ["meta", "meta"]


def test_a_custom_task_can_be_fitted_without_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = throughtime.training.TrainConfig.of(Parity, steps=3, bits=4, **SMALL)
    seen = []

    class Watch(throughtime.training.Callback):
        def on_validation(self, fit):
            seen.append(fit.figures["loss"])

    model = fit(Parity(config.task), config=config, callbacks=[Watch()])
    assert len(seen) == 3
    assert model.task.name == "parity"
    assert list(tmp_path.iterdir()) == []
