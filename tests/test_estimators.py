"""The scikit-learn estimators."""

import io
import json
import pickle
import subprocess
import sys

import joblib
import numpy as np
import polars
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import throughtime
from throughtime import SequenceClassifier, SequenceRegressor
from throughtime.errors import ModelError, UserError
from throughtime.language import affine, tanh
from throughtime.packages import installing

# Small and fast; tests that need a good network set other parameters.
QUICK = {"hidden_size": 8, "epochs": 2, "threads": 1, "random_state": 0}


def sequences(count=60, features=2, seed=0, shortest=4, longest=12):
    """Draw noise around a level; the class is the sign of the first feature's level, and the value is its mean."""
    random = np.random.default_rng(seed)
    levels = random.choice([-1.0, 1.0], count)
    found = []
    for level in levels:
        steps = random.integers(shortest, longest + 1)
        noise = random.standard_normal((steps, features))
        noise[:, 0] += level
        found.append(noise)
    return found, levels


# ------------------------------------------------------------------------------------------- scikit-learn's own checks

SKIPPED = {
    "check_array_api_input": "needs SCIPY_ARRAY_API=1 and another array library; the estimators convert to NumPy",
    "check_classifier_data_not_an_array": "its last part needs pandas",
    "check_regressor_data_not_an_array": "its last part needs pandas",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "count"),
    [
        (SequenceClassifier(hidden_size=16, epochs=8, lr=0.05, batch=50, threads=1), 55),
        # The training score is checked on 200 cases, in which only one column of ten matters.
        (
            SequenceRegressor(hidden_size=16, epochs=15, lr=0.1, batch=25, validation_fraction=0, threads=1),
            53,
        ),
    ],
    ids=["classifier", "regressor"],
)
@pytest.mark.filterwarnings(
    "ignore:invalid value encountered in cast:RuntimeWarning"
)  # raised for scikit-learn's own NaN
def test_scikit_learn_checks_pass(estimator, count):
    results = check_estimator(estimator, on_fail=None, on_skip=None, expected_failed_checks={})
    other = {r["check_name"]: (r["status"], r["exception"]) for r in results if r["status"] != "passed"}
    assert {name: status for name, (status, _) in other.items() if status != "skipped"} == {}, other
    assert other.keys() <= SKIPPED.keys()
    # scikit-learn versions differ in the number of checks; far fewer would mean that a tag turned them off.
    assert len(results) >= count - 5


# ------------------------------------------------------------------------------------------------------------ learning


def test_the_classifier_learns_labels_of_any_type():
    X, levels = sequences(120)
    for labels in (np.array(["down", "up"]), np.array([3, 7]), np.array([False, True]), np.array(["a", "b"], object)):
        y = labels[(levels > 0).astype(int)]
        model = SequenceClassifier(hidden_size=16, epochs=20, lr=0.02, threads=1, random_state=0).fit(X, y)
        assert model.classes_.tolist() == labels.tolist()
        assert model.classes_.dtype == y.dtype
        assert model.predict(X).dtype == y.dtype
        assert model.score(X, y) > 0.95
        probabilities = model.predict_proba(X)
        assert probabilities.shape == (120, 2)
        np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-12)  # computed in float64
        assert (model.classes_[probabilities.argmax(1)] == model.predict(X)).all()


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_the_regressor_learns_at_any_scale(scale):
    X, levels = sequences(120)
    y = scale * (levels + 10)
    model = SequenceRegressor(hidden_size=16, epochs=20, lr=0.02, threads=1, random_state=0).fit(X, y)
    assert model.predict(X).shape == (120,)
    assert model.score(X, y) > 0.8


@pytest.mark.parametrize("targets", [1, 3])
def test_the_regressor_predicts_several_targets(targets):
    X, levels = sequences(40)
    y = levels[:, None] * np.arange(1, targets + 1)
    assert SequenceRegressor(**QUICK).fit(X, y).predict(X).shape == (40, targets)


def test_all_input_forms_are_equivalent():
    random = np.random.default_rng(0)
    cube, y = random.standard_normal((40, 6, 3)), np.arange(40) % 2
    wanted = SequenceClassifier(**QUICK).fit(cube, y).predict_proba(cube)
    for layout, X in {
        "time_first": list(cube),
        "channels_first": np.swapaxes(cube, 1, 2),
    }.items():
        model = SequenceClassifier(**QUICK, layout=layout).fit(X, y)
        assert model.n_features_in_ == 3
        np.testing.assert_array_equal(model.predict_proba(X), wanted)
    unequal = np.empty(40, object)
    unequal[:] = [np.array(x) for x in cube]
    np.testing.assert_array_equal(SequenceClassifier(**QUICK).fit(unequal, y).predict_proba(unequal), wanted)
    np.testing.assert_array_equal(SequenceClassifier(**QUICK).fit(cube.tolist(), y).predict_proba(cube), wanted)


def test_columns_of_data_frames_are_checked(tmp_path):
    x, y = sequences()
    frames = [polars.DataFrame(one, schema=["level", "noise"]) for one in x]
    fitted = SequenceClassifier(**QUICK).fit(frames, y)
    assert fitted.feature_names_in_.tolist() == ["level", "noise"]
    fitted.save(tmp_path / "model.safetensors")
    swapped = [frame[["noise", "level"]] for frame in frames]
    for estimator in (fitted, SequenceClassifier.load(tmp_path / "model.safetensors")):
        assert np.array_equal(estimator.predict(frames), SequenceClassifier(**QUICK).fit(x, y).predict(x))
        assert np.array_equal(estimator.predict(x), estimator.predict(frames))  # arrays have no names
        with pytest.raises(UserError, match="columns noise, level, but SequenceClassifier was fitted to level, noise"):
            estimator.predict(swapped)
    with pytest.raises(UserError, match="same columns in the same order; X has sequences with level, noise and noise"):
        fitted.fit([frames[0], *swapped[1:]], y)
    assert not hasattr(SequenceClassifier(**QUICK).fit(x, y), "feature_names_in_")


def test_table_rows_are_sequences_with_one_feature():
    table, y = np.random.default_rng(0).standard_normal((40, 6)), np.arange(40) % 2
    model = SequenceClassifier(**QUICK).fit(table, y)
    cube = SequenceClassifier(**QUICK).fit(table[:, :, None], y)
    assert (model.n_features_in_, cube.n_features_in_) == (6, 1)
    np.testing.assert_array_equal(model.predict_proba(table), cube.predict_proba(table[:, :, None]))
    # Sequences of other lengths are passed as arrays.
    assert model.predict([np.zeros((9, 1)), np.zeros((2, 1))]).shape == (2,)


def test_predictions_do_not_depend_on_other_sequences():
    X, levels = sequences(40)
    model = SequenceRegressor(**QUICK).fit(X, levels)
    together = model.predict(X)
    alone = np.concatenate([model.predict([x]) for x in X])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)  # float32, in a different order of summation


def test_inputs_are_scaled_by_the_training_part():
    X, levels = sequences(40)
    near = SequenceClassifier(**QUICK, validation_fraction=0).fit(X, levels)
    far = SequenceClassifier(**QUICK, validation_fraction=0).fit([1000 * x + 5e4 for x in X], levels)
    # Equal except for the rounding of the inputs.
    np.testing.assert_allclose(near.predict_proba(X), far.predict_proba([1000 * x + 5e4 for x in X]), rtol=0, atol=1e-4)


def test_few_cases_are_trained_without_validation():
    X, levels = sequences(12)
    with_default = SequenceClassifier(**QUICK).fit(X, levels).predict_proba(X)
    without = SequenceClassifier(**QUICK, validation_fraction=0).fit(X, levels).predict_proba(X)
    np.testing.assert_array_equal(with_default, without)
    many, y = sequences(40)
    held_out = SequenceClassifier(**QUICK).fit(many, y).predict_proba(many)
    assert (held_out != SequenceClassifier(**QUICK, validation_fraction=0).fit(many, y).predict_proba(many)).any()
    # A single held-out case would say nothing about nine of the ten classes.
    labels = np.arange(40) % 10
    SequenceClassifier(**QUICK).fit(many, labels)


def test_a_class_with_one_case_is_learned():
    X, levels = sequences(40)
    y = np.where(levels > 0, 1, 0)
    y[7] = 2
    assert SequenceClassifier(**QUICK).fit(X, y).predict_proba(X).shape == (40, 3)


def test_steps_and_minutes_end_training():
    X, levels = sequences(40)
    one = SequenceRegressor(**QUICK | {"epochs": None, "steps": 1}).fit(X, levels).predict(X)
    same = SequenceRegressor(**QUICK | {"epochs": 50, "steps": 1}).fit(X, levels).predict(X)
    np.testing.assert_array_equal(one, same)
    SequenceRegressor(**QUICK | {"epochs": None, "minutes": 0.002}).fit(X, levels).predict(X)


# ---------------------------------------------------------------------------------------------------------- randomness


def test_random_state_makes_training_reproducible():
    X, levels = sequences(40)

    def trained(state):
        return SequenceRegressor(**QUICK | {"random_state": state}).fit(X, levels).predict(X)

    np.testing.assert_array_equal(trained(3), trained(3))
    assert (trained(3) != trained(4)).any()
    np.testing.assert_array_equal(trained(np.random.RandomState(5)), trained(np.random.RandomState(5)))
    np.random.seed(1)
    first, second = trained(None), trained(None)
    assert (first != second).any()
    np.random.seed(1)
    np.testing.assert_array_equal(trained(None), first)


def test_torch_generator_and_threads_are_restored():
    X, levels = sequences(40)
    torch.manual_seed(0)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    SequenceClassifier(**QUICK | {"threads": 2}).fit(X, levels).predict(X)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_nothing_is_printed_or_written(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    X, levels = sequences(40)
    SequenceClassifier(**QUICK).fit(X, levels).predict(X)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_verbose_shows_a_progress_bar(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    X, levels = sequences(40)
    SequenceClassifier(**QUICK, verbose=1).fit(X, levels)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "training" in printed.err
    assert "loss" in printed.err


# -------------------------------------------------------------------------------------------- with scikit-learn's tools


def test_it_works_in_pipelines_searches_and_cross_validation():
    X, levels = sequences(40)
    table = np.random.default_rng(0).standard_normal((40, 6))
    make_pipeline(StandardScaler(), SequenceClassifier(**QUICK)).fit(table, levels).predict(table)
    deltas = FunctionTransformer(lambda sequences: [np.diff(x, axis=0) for x in sequences])
    make_pipeline(deltas, SequenceClassifier(**QUICK)).fit(X, levels).predict(X)
    grid = {"cell": ["lstm", "gru"], "hidden_size": np.array([4, 8])}
    search = GridSearchCV(SequenceClassifier(**QUICK), grid, cv=2).fit(X, levels)
    assert search.best_params_["cell"] in grid["cell"]
    assert cross_val_score(SequenceRegressor(**QUICK), X, levels, cv=3).shape == (3,)


@pytest.mark.slow  # the processes import torch
def test_a_search_can_use_several_processes():
    X, levels = sequences(40)
    grid = {"lr": [0.01, 0.1]}
    found = [
        GridSearchCV(SequenceClassifier(**QUICK), grid, cv=2, n_jobs=jobs).fit(X, levels).cv_results_["mean_test_score"]
        for jobs in (1, 2)
    ]
    np.testing.assert_array_equal(*found)


def test_a_clone_copies_only_parameters():
    X, levels = sequences(40)
    cell = throughtime.cells.get("gru")
    model = SequenceClassifier(**QUICK, cell=cell).fit(X, levels)
    copy = clone(model)
    assert not hasattr(copy, "model_")
    assert {n: v for n, v in copy.get_params().items() if n != "cell"} == {
        n: v for n, v in model.get_params().items() if n != "cell"
    }
    named = SequenceClassifier(**QUICK, cell="gru").fit(X, levels)
    np.testing.assert_array_equal(copy.fit(X, levels).predict_proba(X), named.predict_proba(X))


def test_a_fitted_estimator_can_be_pickled():
    X, levels = sequences(40)
    model = SequenceRegressor(**QUICK).fit(X, levels)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    np.testing.assert_array_equal(joblib.load(file).predict(X), model.predict(X))


# ------------------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"cell": "lstn"}, "'lstn'.*lstm"),
        ({"hidden_size": 0}, "hidden_size must be at least 1, got 0"),
        ({"optimizer": "adm"}, "optimizer must be one of .*did you mean adam"),
        (
            {"layout": "channel_first"},
            "layout must be one of time_first, channels_first, .*did you mean channels_first",
        ),
        ({"validation_fraction": 1}, "validation_fraction must be at least 0 and less than 1, got 1"),
        ({"validation_fraction": "a"}, "validation_fraction must be at least 0 and less than 1, got 'a'"),
        ({"epochs": None}, "epochs, steps and minutes are all None"),
        ({"lr": -1}, "lr must be greater than 0.*, got -1"),
        ({"engine": "nativ"}, "nativ"),
    ],
)
def test_invalid_parameters_raise_in_fit(parameters, message):
    X, levels = sequences(40)
    model = SequenceClassifier(**QUICK | parameters)
    with pytest.raises(UserError, match=message):
        model.fit(X, levels)


def test_invalid_inputs_raise_scikit_learn_errors():
    X, levels = sequences(40)
    model = SequenceClassifier(**QUICK).fit(X, levels)
    for wrong, message in [
        ([x[:, :1] for x in X], "X has 1 features, but SequenceClassifier is expecting 2 features as input"),
        (np.zeros((5, 2)), "X has 1 features, but SequenceClassifier is expecting 2 .*a table"),
        ([X[0], X[1][:, :1]], r"X\[0\] has 2, X\[1\] has 1"),
        ([X[0], np.full((3, 2), np.nan)], "X contains NaN"),
        (np.full((2, 3, 2), np.inf), "X contains infinity"),
        ([X[0], np.zeros((0, 2))], r"X\[1\] has 0 time steps"),
        (np.zeros((2, 3, 0)), r"X\[0\] has 0 features"),
        (np.zeros((0, 3, 2)), "0 sample"),
        (np.zeros((2, 2, 2, 2)), "dim 4"),
        ([X[0], np.zeros(3)], r"X\[1\] has shape \[3\]"),
        ([[1.0, 2.0], [1.0]], "rows of different lengths"),
        ([], "Expected 2D array"),
        ([np.array([["a", "b"]])], "convert"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.predict(wrong)
    with pytest.raises(ValueError, match=r"numbers of samples.*\[40, 39\]"):
        clone(model).fit(X, levels[1:])


def test_invalid_targets_raise():
    X, levels = sequences(40)
    with pytest.raises(ValueError, match=r"at least 2 classes, got one class: 1\.0"):
        SequenceClassifier(**QUICK).fit(X, np.abs(levels))
    with pytest.raises(ValueError, match="continuous"):
        SequenceClassifier(**QUICK).fit(X, levels / 3)
    with pytest.raises(ValueError, match="y contains NaN"):
        SequenceRegressor(**QUICK).fit(X, np.full(40, np.nan))
    with pytest.raises(ValueError, match="the target y is None"):
        SequenceRegressor(**QUICK).fit(X, None)
    with pytest.raises(ValueError, match="dim 3"):
        SequenceRegressor(**QUICK).fit(X, np.zeros((40, 1, 1)))
    with pytest.warns(DataConversionWarning):
        SequenceClassifier(**QUICK).fit(X, levels[:, None])


def test_unfitted_estimators_raise(tmp_path):
    for model in (SequenceClassifier(), SequenceRegressor()):
        with pytest.raises(NotFittedError):
            model.predict(np.zeros((2, 3, 1)))
        with pytest.raises(NotFittedError):
            model.save(tmp_path / "model.safetensors")


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("kind", [str, int, float, bool, object])
def test_a_classifier_is_restored_from_its_file(kind, tmp_path):
    X, levels = sequences(40)
    labels = {str: ["", "b"], int: [1, 2], float: [0.0, 1.0], bool: [False, True], object: ["x", "yy"]}[kind]
    y = np.array(labels, kind)[(levels > 0).astype(int)]
    path = tmp_path / "model.safetensors"
    model = SequenceClassifier(**QUICK, cell="gru", bidirectional=True).fit(X, y)
    model.save(path)
    loaded = SequenceClassifier.load(path)
    assert loaded.get_params() == model.get_params()
    assert loaded.classes_.dtype == model.classes_.dtype
    assert loaded.n_features_in_ == 2
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    np.testing.assert_array_equal(loaded.fit(X, y).predict_proba(X), model.predict_proba(X))
    with safe_open(path, "np") as file:
        assert json.loads(file.metadata()["throughtime"])["task"]["options"]["classes"] == labels


@pytest.mark.parametrize("targets", [None, 1, 2])
def test_a_regressor_is_restored_from_its_file(targets, tmp_path):
    X, levels = sequences(40)
    y = levels if targets is None else np.repeat(levels[:, None], targets, 1)
    model = SequenceRegressor(**QUICK | {"random_state": np.random.RandomState(0)}).fit(X, y)
    model.save(tmp_path / "model.safetensors")
    loaded = SequenceRegressor.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    assert loaded.random_state is None


def test_a_file_remembers_table_inputs(tmp_path):
    table, y = np.random.default_rng(0).standard_normal((40, 6)), np.arange(40) % 2
    SequenceClassifier(**QUICK).fit(table, y).save(tmp_path / "model.safetensors")
    loaded = SequenceClassifier.load(tmp_path / "model.safetensors")
    assert loaded.n_features_in_ == 6
    with pytest.raises(ValueError, match="X has 5 features, but SequenceClassifier is expecting 6 features as input"):
        loaded.predict(table[:, :5])


def test_a_file_with_a_custom_cell_predicts_without_its_source(tmp_path):
    @throughtime.cell
    def leaky(x, h):
        h = 0.5 * h + 0.5 * tanh(affine("candidate", x, h))
        return h

    X, levels = sequences(40)
    model = SequenceClassifier(**QUICK, cell=leaky).fit(X, levels)
    model.save(tmp_path / "model.safetensors")
    loaded = SequenceClassifier.load(tmp_path / "model.safetensors")
    assert loaded.cell == "leaky"
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    with pytest.raises(UserError, match="leaky"):
        loaded.fit(X, levels)


def test_files_of_other_models_are_rejected(tmp_path):
    X, levels = sequences(40)
    SequenceRegressor(**QUICK).fit(X, levels).save(tmp_path / "regressor.safetensors")
    with pytest.raises(ModelError, match=r"is for the task 'array-regression'; SequenceClassifier\.load reads"):
        SequenceClassifier.load(tmp_path / "regressor.safetensors")
    throughtime.save(throughtime.LSTM(2, 3), tmp_path / "layer.safetensors")
    with pytest.raises(ModelError, match="has no description of its data"):
        SequenceClassifier.load(tmp_path / "layer.safetensors")
    with pytest.raises(ModelError, match="no such file"):
        SequenceClassifier.load(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    "damage",
    [
        lambda task: task["options"].update(classes=[1.0, -1.0]),
        lambda task: task["options"].update(classes=[1.0]),
        lambda task: task["options"].update(classes=["a", 1.0]),
        lambda task: task["options"].update(classes=[-1.0, 1.0, 2.0]),
        lambda task: task["options"].update(class_type="int8"),
        lambda task: task["options"].update(class_type="V9"),
        lambda task: task["options"].update(estimator={"no_such_parameter": 1}),
        lambda task: task["options"].update(estimator=[]),
        lambda task: task["options"].update(columns=3),
        lambda task: task["options"].update(column_names=["a", "b", "c"]),
        lambda task: task["codecs"].update(inputs=None),
        lambda task: task["codecs"].update(targets=task["codecs"]["inputs"]),
        lambda task: task["codecs"]["inputs"].update(mean=[0.0], scale=[1.0]),
    ],
)
def test_damaged_files_are_rejected(damage, tmp_path):
    X, levels = sequences(40)
    path = tmp_path / "model.safetensors"
    SequenceClassifier(**QUICK).fit(X, levels).save(path)
    with safe_open(path, "np") as file:
        content = json.loads(file.metadata()["throughtime"])
    damage(content["task"])
    save_file(load_file(path), path, {"throughtime": json.dumps(content)})
    with pytest.raises(ModelError, match=r"model\.safetensors: its metadata is damaged"):
        SequenceClassifier.load(path)


def test_missing_packages_are_reported_with_their_extra():
    code = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "sklearn":
            raise ModuleNotFoundError("No module named 'sklearn'", name=name)
sys.meta_path.insert(0, Block())
try:
    from throughtime import SequenceClassifier
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"throughtime.SequenceClassifier needs sklearn, {installing('train')}\n"
