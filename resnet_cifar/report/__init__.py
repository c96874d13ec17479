"""From run directories to answers: `python -m resnet_cifar report outputs`.

    study → groups → tables → claims, figures → flow → contents → page, terminal, folder

study       questions, claims and published values, read from experiments/*.yaml
groups      the runs that are compared: one question in one setting
tables      a group's tables, each made once
claims      the verdict on each claim; verdicts, the same in words and tables
figures     the tables as pictures, and their style
flow        gradient flow, of the probe; numbers, the wording of numbers
contents    the first screen, the section of each question, and bookkeeping
document    a report as Markdown with named tables and pictures: the one source
page        the HTML page made of it, by the templates
terminal    the same, printed; folder, the files
"""
