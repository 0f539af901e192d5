"""Measure the test accuracy of throughtime.SequenceClassifier on JapaneseVowels, with the standard split.

    python benchmarks/japanese_vowels.py [--random-state N]

The data come with aeon: pip install aeon. They are recordings of two vowels by nine speakers, as series of 7 to 29
steps with 12 features: 270 cases for training and 370 for testing (Kudo, Toyama & Shimbo 1999).
"""

from __future__ import annotations

import argparse
import time

from throughtime import SequenceClassifier

# The best of eight settings in a 5-fold cross-validation on the training cases: lstm or gru, unidirectional or
# bidirectional, dropout 0.1 or 0.5, 50 epochs each. All other parameters have their defaults.
PARAMETERS = {"cell": "gru", "bidirectional": True, "dropout": 0.5}


def main() -> None:
    """Train a classifier and print its test accuracy and training time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random-state", type=int, default=0)
    given = parser.parse_args()
    try:
        from aeon.datasets import load_japanese_vowels
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error.name} is not installed. Install it with: pip install aeon") from None

    X, y = load_japanese_vowels(split="train")
    X_test, y_test = load_japanese_vowels(split="test")
    model = SequenceClassifier(**PARAMETERS, layout="channels_first", random_state=given.random_state)
    start = time.perf_counter()
    model.fit(X, y)
    seconds = time.perf_counter() - start
    right = int((model.predict(X_test) == y_test).sum())
    print(f"test accuracy {right / len(y_test):.2%} ({right} of {len(y_test)}), trained in {seconds:.1f} s")


if __name__ == "__main__":
    main()
