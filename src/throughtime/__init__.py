"""Recurrent networks you can see through, at full speed."""
