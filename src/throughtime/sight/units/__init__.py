"""Single units: which ones follow something that has a name, and where several are on together."""
