"""Gates: which values of a cell are gates, how often they saturate, how long they keep a state."""
