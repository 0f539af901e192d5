"""Programs: cells as plain data, with their gradients, tangents and equations."""
