"""The commands and their summaries. This module imports nothing, so that any installation can list them."""

ABOUT = "Recurrent networks you can see through, at full speed."

# Each command is a function in the file of the same name.
COMMANDS = {
    "train": "Train a recurrent network on your data.",
    "evaluate": "Measure a trained network on other data.",
    "predict": "Write a trained network's predictions to a file.",
    "sample": "Generate text, music or sound with a trained network.",
    "compare": "Compare cells on your data at equal budgets.",
    "tune": "Search for the best options for your data.",
    "memory": "Measure the longest time lags that cells can learn.",
    "inspect": "Write a page that shows what happens inside a trained network.",
    "horizon": "Show how far back a network's gradient reaches.",
    "export": "Export a trained network to ONNX, C or an audio plugin.",
    "cells": "List the recurrent cells, or show one in detail.",
    "bench": "Measure how fast this machine runs recurrent layers.",
    "runs": "List runs and their results.",
    "info": "Show a run's data, options, size and results.",
}
