"""One run: data, network, norm, optimizer, schedule, loss, loop, record.

`run.assemble` builds the parts, `engine.Engine.fit` is the loop, `state.State` is what a checkpoint
holds.
"""
