"""One optimizer update: backward, gradient clipping, step, weight averaging."""

import copy
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.amp.grad_scaler import GradScaler


class Average:
    """Exponential moving average of a network's weights, bias-corrected like Adam's moments.

    After t updates it is Σ dᵗ⁻ˢ θₛ / Σ dᵗ⁻ˢ over s = 1 … t, d being the decay. The usual recursion
    gives a share to the initial weights, which short runs could not use. BatchNorm's running
    statistics are not averaged: the averaged weights have others, which
    `update_batchnorm_statistics` measures (Izmailov et al. 2018).

    Args:
        network: the network to follow; it is not changed.
        decay: weight of the previous average, at least 0, below 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.network = copy.deepcopy(network).requires_grad_(False)
        self._mine = [parameter.detach() for parameter in self.network.parameters()]
        self._its = [parameter.detach() for parameter in network.parameters()]

    def update(self) -> None:
        """Add the network's current weights to the average, without waiting for the device."""
        self.updates += 1
        # 1 at the first update: the average begins as the network is after it.
        share = (1 - self.decay) / (1 - self.decay**self.updates)
        # One call for all parameters, which on a GPU are a few kernels in place of one each.
        torch._foreach_lerp_(self._mine, self._its, share)

    @torch.no_grad()
    def update_batchnorm_statistics(
        self, batches: Iterable[Tensor], autocast: AbstractContextManager[Any], epoch: int = 1
    ) -> None:
        """Measure the running statistics anew, as the mean over `batches` of training images.

        The norms count so many batches an `epoch`, also where one is measured again after a kill.
        """
        kind = nn.modules.batchnorm._BatchNorm
        norms = [module for module in self.network.modules() if isinstance(module, kind)]
        momenta = [norm.momentum for norm in norms]
        self.network.train()
        for number, x in enumerate(batches if norms else (), 1):
            # Momentum 1/k at batch k is the plain mean; the first batch replaces what was there.
            for norm in norms:
                norm.momentum = 1 / number
                if (count := norm.num_batches_tracked) is not None:
                    count.fill_(epoch * number - 1)  # it adds 1 itself
            with autocast:
                self.network(x)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


class OptimizerStep:
    """One optimizer update: backward, gradient clipping, step, weight averaging.

    Args:
        optimizer: updates the weights.
        clip_norm: largest norm of the gradients of all parameters together; longer ones are
            shortened to it (Pascanu et al. 2013). 0 switches clipping off.
        average: follows the weights. A step that the scaler leaves out counts as an update, as it
            does for the schedule: only the device knows that it was left out.
        scaler: scales the loss, in fp16. Its step reads from the device unless the optimizer is
            fused.
    """

    def __init__(
        self,
        optimizer: optim.Optimizer,
        clip_norm: float = 0.0,
        average: Average | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        self.optimizer, self.clip_norm, self.average = optimizer, clip_norm, average
        self.scaler = scaler or GradScaler("cpu", enabled=False)
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        # Sums over this epoch's updates: gradient norms, clipped updates, updates.
        self._norms = torch.zeros(3, device=self._parameters[0].device)
        if not self.scaler.is_enabled():
            return
        # PyTorch's fused SGD allocates its momentum at the first step and takes it for filled at
        # the second, also if the scaler left the first one out: what lay in memory is then the
        # momentum (seen with torch 2.14). So it is filled with zeros here.
        for group in optimizer.param_groups:
            for parameter in group["params"] if group.get("momentum") else ():
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def step(self, loss: Tensor) -> None:
        """Make one update from a batch's loss [], without waiting for the device.

        Kernels alone, so that it can be captured: nothing in it counts on the host.
        """
        try:
            torch.autograd.backward(self.scaler.scale(loss))
            if self.clip_norm:
                self.scaler.unscale_(self.optimizer)  # the norm is of the gradients, not scaled
                norm = nn.utils.clip_grad_norm_(self._parameters, self.clip_norm)
                taken = norm.isfinite()  # a step that the scaler leaves out is no update
                clipped = taken & (norm > self.clip_norm)
                self._norms += torch.stack([norm.where(taken, 0.0), clipped, taken])
            self.scaler.step(self.optimizer)  # nothing, on the device, where a gradient overflowed
            self.scaler.update()
        finally:
            # None, not zero: the next backward pass then writes gradients in place of adding to
            # them. Also where a capture fails: its gradients have no values.
            self.optimizer.zero_grad(set_to_none=True)

    def follow(self) -> None:
        """Add the weights, as the update left them, to their average."""
        if self.average is not None:
            self.average.update()

    def metrics(self) -> dict[str, float]:
        """Read the epoch's metrics so far, of the parts that are on. Waits for the device.

        They are `gradient_norm/train`, the mean over the updates, before clipping;
        `clipped/train`, the share of updates clipped; `loss_scale/train`, as it is now.
        """
        metrics = {}
        if self.clip_norm:
            total, clipped, count = self._norms.cpu().tolist()
            metrics["gradient_norm/train"] = total / max(count, 1)
            metrics["clipped/train"] = clipped / max(count, 1)
        if self.scaler.is_enabled():
            metrics["loss_scale/train"] = self.scaler.get_scale()
        return metrics

    def end_epoch(self) -> None:
        """Begin the next epoch's metrics."""
        self._norms.zero_()

    def dump(self) -> dict[str, Any]:
        """Return the state that a run resumes from, beside the network's weights."""
        state = {"optimizer": self.optimizer.state_dict(), **self.dump_weights()}
        if self.clip_norm:
            state["gradient_norms"] = self._norms
        if self.average is not None:
            state["ema_updates"] = self.average.updates
        if self.scaler.is_enabled():
            state["scaler"] = self.scaler.state_dict()
        return state

    def dump_weights(self) -> dict[str, Any]:
        """Return what is kept of a finished run: the averaged weights, as a state dict."""
        return {} if self.average is None else {"ema": self.average.network.state_dict()}

    def restore(self, saved: dict[str, Any]) -> None:
        """Continue from what `dump` or `dump_weights` returned."""
        if "optimizer" in saved:
            state, groups = saved["optimizer"], self.optimizer.param_groups
            pairs = zip(groups, state["param_groups"], strict=True)
            whole = [ours | theirs for ours, theirs in pairs]  # torch may have got an option
            self.optimizer.load_state_dict({**state, "param_groups": whole})
        if self.clip_norm and "gradient_norms" in saved:
            self._norms.copy_(saved["gradient_norms"])
        if self.average is not None:
            self.average.network.load_state_dict(saved["ema"])
            self.average.updates = saved.get("ema_updates", 0)
        # Absent where `auto` was another precision before, on another machine.
        if self.scaler.is_enabled() and "scaler" in saved:
            self.scaler.load_state_dict(saved["scaler"])
