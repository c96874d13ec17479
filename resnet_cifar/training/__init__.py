"""One run: `run.assemble` builds it, `engine.Engine.fit` trains it, `state.State` is saved."""
