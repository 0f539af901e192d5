"""Find units that follow a nameable feature, and the places where several units are on together."""
