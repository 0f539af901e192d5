"""Studies: many runs that answer one question. Which cell, how long a memory, which options?"""
