"""Counts whole objects and pieces in images of several tiny models, sampled above their trained size with
each method.

Run with `python3 dev.py whole-objects`. `plan` lists what is sampled, `methods` the methods, `sampling`
samples, `counter` counts, `records` saves the counts, so that an interrupted run can be resumed, and `table`
shows them.
"""
