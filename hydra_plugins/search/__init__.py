"""A Hydra sweeper that searches: Optuna proposes each job by the results of those before.

    python program.py hydra/sweeper=optuna 'optimizer.lr=tag(log, interval(0.001, 0.1))'

- The study's name in its file (Optuna's journal) is a function of the question: space, sampler,
  pruner, seed, and whatever else the command sets. So the same command goes on, and a larger
  `n_trials` adds to it. Trials whose jobs were interrupted or have failed come first then.
- A proposal is a function of the seed, the trial's number and the file's content: one job at a
  time, a search that was interrupted makes the proposals of one that was not.

Nothing in this package knows the project it lies in.
"""
