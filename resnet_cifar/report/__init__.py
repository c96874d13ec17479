"""From run directories to answers: `python -m resnet_cifar.report outputs`.

analysis   runs and questions to tables and verdicts (pandas in, pandas out)
figures    the same as pictures (matplotlib)
document   what a report consists of, and how it looks in a terminal, in Markdown and in HTML
"""
