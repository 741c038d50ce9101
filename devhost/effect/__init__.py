"""Proof of effect: what each method for large pictures does, counted on models that draw known numbers of objects.

Run with `python3 dev.py effect`. `plan` says what is sampled, `draw` samples it, `kept` keeps it, `run` spreads it over
processes; `features`, `statistics` and `rows` turn it into figures, `table`, `plot` and `contact` show them.
"""
