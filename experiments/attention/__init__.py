"""What heads look at: statistics over a corpus, dependencies, contributions, rollout and flow.

>>> from layerscope.experiments.attention import heads, passes  # doctest: +SKIP
>>> totals = heads.HeadTotals(subject, encoded, heads.deal(len(encoded), seed=0))  # doctest: +SKIP
>>> passes.pass_over(subject, encoded, [totals])  # doctest: +SKIP
>>> totals.result().value("entropy")  # doctest: +SKIP
"""
