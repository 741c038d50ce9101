"""Proof of effect: counts how many objects each method for large images draws, on models that draw known
numbers of objects.

Run with `python3 dev.py effect`. `plan` lists what is sampled, `draw` samples it, `kept` caches it, `run`
distributes it over processes; `features`, `statistics` and `rows` compute the results, `table`, `plot` and
`contact` show them.
"""
