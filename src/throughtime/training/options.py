"""Type annotations of the options of `throughtime.train`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias, TypedDict

PathLike: TypeAlias = str | os.PathLike[str]
Paths: TypeAlias = PathLike | Sequence[PathLike]


class TrainOptions(TypedDict, total=False):
    """The options of `throughtime.train`; `throughtime.training.TrainConfig` explains and validates them.

    None means that an option isn't set.
    """

    # options of all tasks
    valid: PathLike | None
    test: PathLike | None
    encoding_errors: Literal["strict", "replace"] | None

    # text
    level: Literal["char", "word", "bpe"] | None
    vocab_size: int | None
    min_count: int | None
    window: int | None

    # classify, which also has level and min_count
    label: str | None
    text: str | None
    group: str | None
    time: str | None
    columns: str | None
    gaps: bool
    group_by: str | None
    valid_share: float | None
    test_share: float | None
    label_pattern: str | None
    rate: int | None
    features: Literal["log-mel", "raw"] | None
    bands: int | None
    frame: int | None
    normalize: Literal["level", "none"] | None
    augment: int | None
    class_weights: Literal["none", "balanced"] | None

    # tag, which also has min_count, valid_share and test_share
    token_column: int | str | None
    tag_column: int | str | None
    sentence_column: str | None

    # notes
    step: float | None

    # audio, which also has window and rate
    channels: Literal["mono", "stereo"] | None
    quantization: Literal["mu-law", "linear"] | None
    levels: int | None
    output: Literal["softmax", "mixture"] | None
    components: int | None

    # effect, which also has rate, window, valid_share and test_share
    paired: bool | None
    align: Literal["auto", "off"] | None
    skip: bool | None
    segment: float | None
    burn_in: int | None
    knob: Mapping[str, Sequence[float]] | None

    # forecast, which also has time and segment
    target: str | None
    horizon: int | None
    context: int | None
    id: str | None
    past: str | None
    future: str | None
    static: str | None
    freq: str | None
    season: int | None
    identify: bool | None
    calendar: bool | None
    scaling: Literal["standard", "robust", "mean"] | None
    split: str | None
    strategy: Literal["parallel", "direct", "recursive"] | None
    head: Literal["mse", "mae", "quantiles", "normal", "student_t"] | None
    quantiles: str | None
    interval: float | None

    # network
    cell_options: Mapping[str, bool | int | float | str | None] | None
    hidden_size: int | None
    num_layers: int | None
    bidirectional: bool | None
    embed: int | None
    dropout: float | None
    recurrent_dropout: float | None
    zoneout: float | None
    weight_drop: float | None
    tie: bool | None

    # training
    batch: int | None
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] | None
    lr: float | None
    schedule: Literal["constant", "cosine", "plateau", "step"] | None
    decay: float | None
    decay_after: int | None
    clip: float | None
    weight_decay: float | None
    ema: float | None
    init: float | Literal["orthogonal"] | None
    forget_bias: float | None
    chrono: float | None
    init_from: PathLike | None

    # the length of training
    epochs: float | None
    steps: int | None
    minutes: float | None

    # the run
    seed: int | None
    out: PathLike | None
    engine: str | None
    threads: int | None
    devices: int | str | None
    nodes: int | None
    precision: Literal["32", "64", "bf16", "bf16-mixed", "16-mixed"] | None
    log: Literal["csv", "tensorboard"] | None
