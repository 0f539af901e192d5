"""Measure the test accuracy of throughtime.SequenceClassifier on JapaneseVowels, with the data's own split.

    python benchmarks/japanese_vowels.py [--random-state N]

It needs aeon, which brings the data: pip install aeon. The data are nine speakers' recordings of two vowels, as series
of 7 to 29 steps with 12 features: 270 cases for training and 370 for the test (Kudo, Toyama & Shimbo 1999).
"""

from __future__ import annotations

import argparse
import time

from throughtime import SequenceClassifier

# The best of eight in a 5-fold cross-validation of the training cases: lstm or gru, one direction or two, dropout 0.1
# or 0.5, each with 50 epochs. All other parameters have their defaults.
PARAMETERS = {"cell": "gru", "bidirectional": True, "dropout": 0.5}


def main() -> None:
    """Train, and print the accuracy and the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--random-state", type=int, default=0)
    given = parser.parse_args()
    try:
        from aeon.datasets import load_japanese_vowels
    except ModuleNotFoundError as error:
        raise SystemExit(f"the data come with aeon, and {error.name} is not installed: pip install aeon") from None

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
