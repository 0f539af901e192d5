"""Gates: find them in a cell's equations, and measure how often they saturate and how long they retain a state."""
