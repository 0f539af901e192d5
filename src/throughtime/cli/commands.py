"""The commands by name; needs no package, so that the list can be shown in any installation."""

ABOUT = "Recurrent networks you can see through, at full speed."

# Each command is a function of its own name in the file of its own name.
COMMANDS = {
    "train": "Train a recurrent network on text, labels, notes, sound or tables.",
    "evaluate": "Measure a trained network on other data.",
    "predict": "Write what a trained network predicts for data.",
    "sample": "Let a trained network write text, music or sound.",
    "compare": "Compare cells on your data, with equal budgets.",
    "tune": "Search for the options that do best on your data.",
    "memory": "Measure how long a memory cells learn.",
    "inspect": "Write a page that shows what a trained network does with a text.",
    "horizon": "Show how far back a network's gradient reaches.",
    "export": "Write a trained network as a file that other systems run.",
    "cells": "List the recurrent cells, or show one as equations and program.",
    "bench": "Measure how fast this machine runs recurrent layers.",
    "runs": "List runs, with their figures.",
    "info": "Show what a run was trained on, its sizes and figures.",
}
