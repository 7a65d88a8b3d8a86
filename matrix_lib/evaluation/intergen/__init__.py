"""InterGenEval (MATRIX, arXiv 2510.07310, section 5) for real videos: does the interaction that was asked for happen,
between whom it should, and is everybody still there?

A suite names the samples; questions are made once and shared by all models; a judge answers them on frames with
coloured boxes; tracks say who disappeared; scores keep what is missing missing.
"""
