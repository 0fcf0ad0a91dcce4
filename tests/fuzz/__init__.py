"""Every parser that reads what others write, against damaged and hostile input.

One module a parser. Each has `fuzz(seed, seconds, rounds)`, which ends quietly after so many rounds or
seconds (None: no limit of that kind) and raises on a fault: an exception that is no refusal, a result that
can't be, a round that takes too long. `rounds.repeat` counts, and notes in a failure how to repeat it.

The suite runs them with a fixed seed (`test_fuzz*.py`), `./dev fuzz MINUTES [PARSER...]` with random seeds
for as long as one likes.
"""
