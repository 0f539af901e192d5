"""`throughtime export` to ONNX: a trained network in ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx_helpers import assert_alike, by_onnx_runtime
from tiny_training import train_tiny

import throughtime
from throughtime.cli.main import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train_tiny(tmp_path_factory.mktemp("export"), cell="gru")


def test_the_exported_model_matches_the_run(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    assert main(["export", str(run.path), str(path)]) == 0
    printed = capsys.readouterr().out
    for words in ("GRU, GRU", "token_ids [T, B]", "initial_hidden [2, B, 12]", "logits", "final_hidden"):
        assert words in printed
    model = onnx.load(path)
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(said["throughtime.task"]) == run.description.to_data()
    tokens, state = np.array([[1, 2], [3, 4], [5, 1]]), np.zeros((2, 2, 12), np.float32)
    with torch.no_grad():
        scores, final = throughtime.load(run.path)(torch.from_numpy(tokens), torch.from_numpy(state))
    assert_alike(
        by_onnx_runtime(model, {"token_ids": tokens, "initial_hidden": state}), [scores.numpy(), final.numpy()]
    )
    assert json.loads(said["throughtime.initial"]) == {"hidden": 0.0}


def test_invalid_arguments_are_reported(run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = tmp_path / "there.onnx"
    there.write_bytes(b"mine")
    for arguments, words in [
        ([run.path, there], "--overwrite"),
        ([run.path, tmp_path / "model.pt"], ".onnx"),
        ([tmp_path / "none", tmp_path / "model.onnx"], "no such file or directory"),
    ]:
        assert main(["export", *map(str, arguments)]) == 2
        assert words in capsys.readouterr().err
    assert there.read_bytes() == b"mine"
    assert main(["export", str(run.path), str(there), "--overwrite"]) == 0
    assert onnx.load(there).producer_name == "throughtime"
