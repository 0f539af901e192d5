"""Hooks on a running model: record, edit and keep named values of its recurrent layers."""
