"""A Hydra sweeper that searches: Optuna proposes each job by what the jobs before have reached.

    python program.py hydra/sweeper=optuna 'optimizer.lr=tag(log, interval(0.001, 0.1))'

- The search space is Hydra's sweep syntax: interval(…), tag(log, …), int(…), range(…), choice(…).
- On this machine's launcher (local_pool) every slot has a job at every time, and a job that is
  behind the others at the same step is stopped, as by a signal: its files stay, and whoever runs it
  by hand goes on with it. Other launchers get a batch at a time, and nothing is stopped.
- The study is a file (Optuna's journal), and its name there a function of the question: space,
  sampler, pruner, seed, and what else the command sets. So the same command goes on, and a larger
  `n_trials` adds to it. A trial whose job was interrupted or has failed is taken up again first.
- What is proposed is a function of the seed, the trial's number and what the file holds: one at a
  time, a search that was interrupted makes the proposals of one that was not.

What a job has reached says `Job.curve()`, what it came to `Job.outcome()`.

Nothing in this package knows the project it lies in.
"""
