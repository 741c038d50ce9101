"""One whole object or pieces? Several tiny models, sampled above their trained size with each method, and counted.

Run with `python3 dev.py whole-objects`. `plan` lists what is sampled, `methods` with what, `sampling` samples it, `counter` counts
in pictures, `records` keeps the counts, so that an interrupted run goes on, and `table` shows them.
"""
