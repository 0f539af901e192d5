"""The tag task: a tag for each token, with metrics by token and by span."""

import random

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from throughtime import tasks
from throughtime.data.spans import span_f1
from throughtime.errors import DataError
from throughtime.tasks.tag import Tag, TagOptions
from throughtime.training import evaluate, train
from throughtime.training.inference import predict

TINY = {
    "hidden_size": 12,
    "lr": 0.03,
    "batch": 16,
    "steps": 250,
    "threads": 1,
    "progress": False,
}
NAMES = ["Ada", "Emmy", "Sofia", "Noether", "Lovelace"]
VERBS = ["met", "saw", "left"]


def sentences(count, seed):
    """Sentences with names of one or two words; a name after `in` is a place."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        sentence = []
        for kind in draw.choice([["PER", "PER"], ["PER"], ["PER", "LOC"]]):
            if kind == "LOC":
                sentence.append(("in", "O"))
            elif sentence:
                sentence.append((draw.choice(VERBS), "O"))
            length = draw.choice([1, 2])
            sentence += [(draw.choice(NAMES), f"{'IB'[k == 0]}-{kind}") for k in range(length)]
        found.append([*sentence, (".", "O")])
    return found


def written(path, found):
    path.write_text("\n".join("".join(f"{token}\t{tag}\n" for token, tag in sentence) for sentence in found))
    return path


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A directory with train.bio and test.bio; the second has tokens that are missing from the first."""
    path = tmp_path_factory.mktemp("tag")
    written(path / "train.bio", sentences(120, 0))
    written(path / "test.bio", [*sentences(25, 1), [("Grace Hopper", "B-PER"), ("smiled", "O")]])
    return path


@pytest.fixture(scope="module")
def run(directory):
    """A trained network."""
    return train(data=directory / "train.bio", test=directory / "test.bio", out=directory / "run", dropout=0.1, **TINY)


def by_hand(run, found):
    """Compute nats per token, accuracy and span F1, one sequence at a time."""
    model, codecs = run.model(), run.description.codecs
    ids = {token: k for k, token in enumerate(codecs.inputs.tokens)}
    names = codecs.targets.names
    nats, right, count, guesses = 0.0, 0, 0, []
    for sentence in found:
        # A known token is written with a space after it; unknown ones have id 0.
        inputs = torch.tensor([[ids.get(f"{token} ", 0)] for token, _ in sentence])
        targets = torch.tensor([names.index(tag) for _, tag in sentence])
        with torch.no_grad():
            raw, _ = model(inputs)
        nats += cross_entropy(raw[:, 0], targets, reduction="sum").item()
        right += int((raw[:, 0].argmax(-1) == targets).sum())
        count += len(targets)
        guesses.append([names[k] for k in raw[:, 0].argmax(-1)])
    f1 = span_f1([[tag for _, tag in sentence] for sentence in found], guesses)
    return nats / count, right / count, f1, guesses


def test_metrics_match_single_sequences(run, directory):
    found = [*sentences(25, 1), [("Grace Hopper", "B-PER"), ("smiled", "O")]]
    nats, accuracy, f1, _ = by_hand(run, found)
    figures = run.result["test"]
    assert figures["loss"] == pytest.approx(nats, rel=1e-5)  # float32 sums in a different order
    assert figures["accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert figures["span_f1"] == pytest.approx(f1, abs=1e-6)
    assert figures["tokens"] == sum(map(len, found))
    assert evaluate(run, directory / "test.bio")["span_f1"] == figures["span_f1"]
    assert run.config.task.task == "tag"
    assert run.config.network.bidirectional
    # Only the word before tells whether a name is a place, so a table of tokens can't know.
    table = figures["baselines"]["each token's most frequent tag"]
    assert f1 > 0.9 > table["span_f1"]
    assert accuracy > table["accuracy"] > figures["baselines"]["always O"]["accuracy"]


def test_spans_are_counted_within_sequences():
    from throughtime.tasks.metrics import SpanF1

    metric = SpanF1(["B-X", "I-X", "O"])
    metric.update(torch.eye(3)[[2]], torch.tensor([2]), torch.tensor([1]))
    assert metric.compute() == 0
    true = torch.tensor([0, 1, 1, 2, 0])  # B I | I O B
    found = torch.tensor([0, 1, 1, 2, 2])
    metric.update(torch.eye(3)[found], true, torch.tensor([2, 3]))
    # By sequence, the true spans are (0, 2), (0, 1) and (2, 3); the first two are found.
    assert metric.compute() == pytest.approx(2 * 2 / 5)


def test_baselines_are_the_most_frequent_tags(run, directory):
    codecs, fitted = run.description.codecs, run.description.baselines
    data = Tag(TagOptions(data=(str(directory / "train.bio"),))).prepare(codecs=codecs)
    ids, tags = (np.concatenate(arrays) for arrays in (data.train.inputs, data.train.targets))
    assert fitted["majority"] == np.bincount(tags).argmax()
    for token in np.unique(ids):
        assert fitted["by_token"][token] == np.bincount(tags[ids == token]).argmax()


def test_predictions_need_no_tags(run, directory):
    found = [[(token, "") for token, _ in sentence] for sentence in sentences(5, 2)]
    path = directory / "tokens.txt"
    path.write_text("\n".join("".join(f"{token}\n" for token, _ in sentence) for sentence in found))
    table = predict(run, path)
    assert table.columns == ("sequence", "token", "tag")
    rows = list(table.rows)
    assert [row[1] for row in rows] == [token for sentence in found for token, _ in sentence]
    *_, guesses = by_hand(run, sentences(5, 2))
    assert [row[2] for row in rows] == [tag for sequence in guesses for tag in sequence]
    assert [row[0] for row in rows[: len(found[0]) + 1]] == ["tokens.txt:1"] * len(found[0]) + [
        f"tokens.txt:{len(found[0]) + 2}"
    ]


def test_unknown_tokens_keep_their_text(run, directory):
    (directory / "new.bio").write_text("Grace Hopper\tB-PER\nsmiled\tO\n")
    assert [row[1] for row in predict(run, directory / "new.bio").rows] == ["Grace Hopper", "smiled"]


def test_tags_from_a_table_need_not_be_spans(tmp_path):
    rows = [
        f"{k},{token},{'noun' if tag != 'O' else 'other'}\n" for k, s in enumerate(sentences(30, 3)) for token, tag in s
    ]
    (tmp_path / "a.csv").write_text("sentence,word,pos\n" + "".join(rows))
    columns = {"token_column": "word", "tag_column": "pos", "sentence_column": "sentence"}
    run = train(
        task="tag", data=tmp_path / "a.csv", out=tmp_path / "run", test_share=0.2, **columns, **{**TINY, "steps": 5}
    )
    assert set(run.result["test"]) == {"loss", "accuracy", "tokens", "baselines"}
    assert run.record.data.counts["test"] == 6
    assert run.record.data.counts["valid"] == 3


def test_columns_are_numbers_or_names():
    options = TagOptions(token_column="0", tag_column="-2")
    assert (options.token_column, options.tag_column) == (0, -2)
    assert TagOptions(tag_column="ner").tag_column == "ner"


def test_the_tag_task_is_guessed_from_extensions(directory):
    assert tasks.chosen(None, {"data": [directory / "train.bio", "x.conll"]})[0].name == "tag"
    assert tasks.chosen(None, {"data": directory / "train.txt"})[0].name == "text"


def test_unusable_data_are_rejected(run, tmp_path):
    (tmp_path / "a.bio").write_text("Ada B-PER\nmet\n")
    (tmp_path / "b.bio").write_text("Ada B-ORG\n")
    (tmp_path / "rare.bio").write_text("a X\n\nb Y\n\nc X\n")
    for data, message in [("a.bio", r"line 2: expected a token and its tag, got only 'met'"), ("b.bio", "'B-ORG'")]:
        with pytest.raises(DataError, match=message):
            evaluate(run, tmp_path / data)
    with pytest.raises(DataError, match="smaller min_count"):
        train(data=tmp_path / "rare.bio", out=tmp_path / "run", **TINY)
    assert not (tmp_path / "run").exists()
