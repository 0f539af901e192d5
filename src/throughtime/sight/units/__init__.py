"""Single units: find those that follow a nameable feature, and where several are on together."""
