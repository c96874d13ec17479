"""From run directories to answers: `python -m resnet_cifar report outputs`.

    study → groups → tables → claims, figures → contents → document

study       questions, claims and published values, read from experiments/*.yaml
groups      which runs are compared: one question in one setting
tables      what is tabulated of a group, each table once
claims      what becomes of each claim
figures     the tables as pictures; flow, those of the probe; canvas, what they share
contents    what the report says, section by section
document    how that looks in a terminal, in Markdown and in HTML
statistics  the few formulas
"""
