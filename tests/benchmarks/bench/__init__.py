"""Measuring speed and memory against what the machine can do: formulas, limits, timers, the parts, plots.

``counts`` says what work a part is, ``limits`` what the device can do, ``parts`` runs them; ``report`` writes it down.
"""
