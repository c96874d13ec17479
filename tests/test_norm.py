"""The identities of batch normalisation's backward pass, in float64, for every detach mode.

A "detached" layer that merely detaches what it writes to its running statistics is BatchNorm and
fails these.
"""

import copy
import signal

import pytest
import torch
from conftest import TINY, Program
from test_run import directory, interrupt_at
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_cifar.model.batch_counts import BatchCounts
from resnet_cifar.model.detached_batchnorm import DetachedBatchNorm2d
from resnet_cifar.model.options import DETACH, BatchNorm, ResNet18

DIMS = (0, 2, 3)


def layer(detach: str, channels: int = 5, eps: float = 1e-5) -> nn.BatchNorm2d:
    made = BatchNorm(detach=detach, eps=1e-5, momentum=0.1).build(channels).double()
    assert isinstance(made, nn.BatchNorm2d)
    made.eps = eps  # the configuration refuses 0, as no one should train so
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        made.weight.copy_(torch.rand(channels, generator=source) + 0.5)
        made.bias.copy_(torch.randn(channels, generator=source))
    return made


def batch(channels: int = 5) -> tuple[Tensor, Tensor]:
    """An input with a mean and a scale of its own per channel, and an upstream gradient."""
    source = torch.Generator().manual_seed(2)
    x = torch.randn(6, channels, 4, 3, generator=source, dtype=torch.float64)
    x = (
        x * torch.linspace(0.5, 3, channels)[:, None, None]
        + torch.linspace(-2, 4, channels)[:, None, None]
    )
    g = torch.randn(6, channels, 4, 3, generator=source, dtype=torch.float64) + 0.3
    return x.requires_grad_(), g


def per_channel(values: Tensor) -> Tensor:
    return values[None, :, None, None]


class Parts:
    """x, x̂, σ, g and the layer's gradients."""

    def __init__(self, detach: str, eps: float = 1e-5) -> None:
        norm = layer(detach, eps=eps)
        x, self.g = batch()
        y = norm(x)
        y.backward(self.g)
        assert x.grad is not None
        assert norm.weight.grad is not None
        assert norm.bias.grad is not None
        self.dx, self.dgamma, self.dbeta = x.grad, norm.weight.grad, norm.bias.grad
        self.gamma = norm.weight.detach()
        var, self.mean = torch.var_mean(x.detach(), DIMS, correction=0)
        self.sigma = torch.sqrt(var + eps)
        self.xhat = (x.detach() - per_channel(self.mean)) / per_channel(self.sigma)
        self.eps = eps

    def relative(self, total: Tensor, *terms: Tensor) -> float:
        """|total| against the size of what was summed."""
        size = sum(float(term.abs().sum()) for term in terms)
        return float(total.abs().max()) / size


@pytest.mark.parametrize("detach", DETACH)
def test_gradient_is_the_closed_form(detach: str) -> None:
    p = Parts(detach)
    expected = p.g.clone()
    if detach in ("none", "var"):
        expected -= per_channel(p.g.mean(DIMS))
    if detach in ("none", "mean"):
        expected -= p.xhat * per_channel((p.g * p.xhat).mean(DIMS))
    expected *= per_channel(p.gamma / p.sigma)
    torch.testing.assert_close(p.dx, expected, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(p.dbeta, p.g.sum(DIMS), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(p.dgamma, (p.g * p.xhat).sum(DIMS), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("detach", DETACH)
def test_sum_of_the_input_gradient(detach: str) -> None:
    """Zero where the mean is differentiated, (γ/σ) ∂L/∂β where it is not."""
    p = Parts(detach)
    total = p.dx.sum(DIMS)
    if detach in ("none", "var"):
        # Each summand is rounded some times, its mean taken off included: 10 eps of their size.
        assert p.relative(total, p.dx) < 10 * torch.finfo(torch.float64).eps
    else:
        closed = p.gamma / p.sigma * p.dbeta
        torch.testing.assert_close(total, closed, rtol=1e-11, atol=1e-12)
        assert float(total.abs().min()) > 1e-2


@pytest.mark.parametrize("eps", [1e-30, 1e-5, 0.1])
@pytest.mark.parametrize("detach", DETACH)
def test_projection_on_the_normalised_input(detach: str, eps: float) -> None:
    """⟨∂L/∂x, x̂⟩: zero up to eps where the variance is differentiated, (γ/σ) ∂L/∂γ where not.

    With eps, Σ x̂² = n var/σ² is a little less than n, hence the closed form of the remainder.
    """
    p = Parts(detach, eps)
    inner = (p.dx * p.xhat).sum(DIMS)
    if detach in ("var", "both"):
        closed = p.gamma / p.sigma * p.dgamma
        assert float(inner.abs().min()) > 1e-3
    else:
        closed = p.gamma / p.sigma * p.dgamma * (p.eps / p.sigma**2)
    torch.testing.assert_close(inner, closed, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("detach", DETACH)
def test_radial_part_of_the_filter_gradient(detach: str) -> None:
    """w·∂L/∂w of the bias-free filter that feeds the layer.

    BatchNorm: γ ∂L/∂γ · eps/σ², zero but for eps. Both detached: γ ∂L/∂γ + γ (μ/σ) ∂L/∂β.
    """
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 5, 3, bias=False).double()
    norm = layer(detach)
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64) + 0.7
    pre = conv(x)
    y = norm(pre)
    y.backward(torch.randn(y.shape, dtype=torch.float64) + 0.2)
    assert conv.weight.grad is not None
    radial = (conv.weight.detach() * conv.weight.grad).sum((1, 2, 3))
    var, mean = torch.var_mean(pre.detach(), DIMS, correction=0)
    sigma = torch.sqrt(var + norm.eps)
    gamma, dgamma, dbeta = norm.weight.detach(), norm.weight.grad, norm.bias.grad
    assert dgamma is not None
    assert dbeta is not None
    by_gamma = gamma * dgamma * (norm.eps / sigma**2 if detach in ("none", "mean") else 1.0)
    by_beta = gamma * mean / sigma * dbeta if detach in ("mean", "both") else torch.zeros(5)
    torch.testing.assert_close(radial, by_gamma + by_beta, rtol=1e-9, atol=1e-11)
    if detach == "none":
        norms = conv.weight.detach().norm() * conv.weight.grad.norm()
        assert float(radial.abs().max() / norms) < 1e-4
    else:
        assert float(radial.abs().max()) > 1e-2


@pytest.mark.parametrize("detach", DETACH)
def test_forward_and_running_statistics_are_batchnorms(detach: str) -> None:
    reference, other = layer("none"), layer(detach)
    for seed in range(3):
        x = torch.randn(
            6, 5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
        )
        torch.testing.assert_close(other(x), reference(x), rtol=1e-13, atol=1e-13)
    for name, buffer in reference.named_buffers():
        # A mean of values of size 1 that is near 0 is rounded as they are.
        torch.testing.assert_close(
            dict(other.named_buffers())[name], buffer, rtol=1e-13, atol=1e-13
        )
    reference.eval()
    other.eval()
    torch.testing.assert_close(other(x), reference(x), rtol=1e-13, atol=1e-13)
    assert other.state_dict().keys() == reference.state_dict().keys()


def test_detaching_only_the_running_statistics_is_batchnorm_and_fails() -> None:
    """The identities tell the well-known wrong implementation from the right one."""

    class Wrong(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            var, mean = torch.var_mean(x, DIMS, correction=0)
            with torch.no_grad():
                self.running_mean.lerp_(mean.detach(), 0.1)
                self.running_var.lerp_(var.detach(), 0.1)
            xhat = (x - per_channel(mean)) * per_channel(torch.rsqrt(var + self.eps))
            return xhat * per_channel(self.weight) + per_channel(self.bias)

    x, g = batch()
    wrong = Wrong(5).double()
    wrong(x).backward(g)
    assert x.grad is not None
    assert float(x.grad.sum(DIMS).abs().max()) < 1e-12  # the detached one: (γ/σ) ∂L/∂β
    assert float(g.sum(DIMS).abs().min()) > 1


@pytest.mark.parametrize("detach", DETACH)
def test_second_order_terms_do_not_appear(detach: str) -> None:
    """γ and β get the gradients they would get from constants: no path through the zero term."""
    norm = layer(detach)
    x, g = batch()
    y = norm(x)
    found = torch.autograd.grad(y, [norm.weight, norm.bias], g)
    p = Parts(detach)
    torch.testing.assert_close(found[0], p.dgamma)
    torch.testing.assert_close(found[1], p.dbeta)


@pytest.mark.parametrize("detach", DETACH)
def test_identities_inside_the_network(detach: str) -> None:
    """Every filter of ResNet-18 that feeds a norm layer, shortcuts included, under a real loss."""
    torch.manual_seed(0)
    make = BatchNorm(detach=detach, eps=1e-5, momentum=0.1).build
    net = ResNet18(3).build(make, 10).double()
    inputs: dict[nn.Module, Tensor] = {}
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda m, args, out: inputs.__setitem__(m, args[0]))
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    x = torch.randn(8, 3, 32, 32, dtype=torch.float64)
    loss = F.cross_entropy(net(x), torch.arange(8))
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 20
    assert sum(isinstance(m, DetachedBatchNorm2d) for m in norms) == (0 if detach == "none" else 20)
    into = torch.autograd.grad(loss, [inputs[m] for m in norms], retain_graph=True)
    loss.backward()
    for norm, dx in zip(norms, into, strict=True):
        pre = inputs[norm].detach()
        var, mean = torch.var_mean(pre, DIMS, correction=0)
        sigma = torch.sqrt(var + norm.eps)
        xhat = (pre - per_channel(mean)) / per_channel(sigma)
        scale = norm.weight.detach() / sigma
        total, inner = dx.sum(DIMS), (dx * xhat).sum(DIMS)
        size = dx.abs().sum(DIMS)
        assert norm.bias.grad is not None
        assert norm.weight.grad is not None
        by_beta = scale * norm.bias.grad if detach in ("mean", "both") else torch.zeros_like(total)
        left = 1.0 if detach in ("var", "both") else norm.eps / sigma**2
        by_gamma = scale * norm.weight.grad * left
        assert float(((total - by_beta) / size).abs().max()) < 1e-12
        assert float(((inner - by_gamma) / size).abs().max()) < 1e-10


def test_one_value_per_channel_is_refused_as_batchnorm_does() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        DetachedBatchNorm2d(3)(torch.zeros(1, 3, 1, 1))


@pytest.mark.parametrize("momentum", [0.1, 1.0, 0.0])
def test_two_values_per_channel_and_any_momentum_are_batchnorms(momentum: float) -> None:
    reference = nn.BatchNorm2d(3, momentum=momentum).double()
    other = DetachedBatchNorm2d(3, momentum=momentum).double()
    for x in torch.randn(3, 2, 3, 1, 1, dtype=torch.float64):
        torch.testing.assert_close(other(x), reference(x))
        torch.testing.assert_close(other.running_mean, reference.running_mean)
        torch.testing.assert_close(other.running_var, reference.running_var)
    assert (other.running_mean == 0).all() == (momentum == 0.0)


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="mean, var or both"):
        DetachedBatchNorm2d(3, detach="all")


@pytest.mark.parametrize("detach", ["mean", "var", "both"])
def test_bfloat16_autocast_keeps_statistics_wide(detach: str) -> None:
    norm = DetachedBatchNorm2d(4, detach=detach)
    x = (torch.randn(8, 4, 5, 5) * 3 + 20).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = norm(x.bfloat16())
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    expected = x.detach().bfloat16().float().mean(DIMS) * 0.1
    torch.testing.assert_close(norm.running_mean, expected, rtol=1e-3, atol=1e-3)


# torch 2.11's own compiler does it; later versions don't.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("detach", ["mean", "var", "both"])
def test_compiled_in_one_graph(detach: str) -> None:
    """torch.compile takes the layer as it is, without falling back to Python."""
    plain, other = layer(detach), layer(detach)
    compiled = torch.compile(other, backend="aot_eager", fullgraph=True)
    x, g = batch()
    z = x.detach().clone().requires_grad_()
    plain(x).backward(g)
    compiled(z).backward(g)
    torch.testing.assert_close(z.grad, x.grad)
    torch.testing.assert_close(other.running_var, plain.running_var)


# The number of batches, which is in files and not counted in training.


class Own(nn.BatchNorm2d):
    """A person's layer, which does not go without its number."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.num_batches_tracked is not None
        return super().forward(x) / self.num_batches_tracked


def test_layers_have_the_number_of_batches_that_they_would_have_counted() -> None:
    """Every kind of layer, some trained before, beside a twin that counts for itself."""
    torch.manual_seed(0)
    twin = nn.Sequential(
        nn.BatchNorm2d(3),
        DetachedBatchNorm2d(3),
        Own(3),
        nn.BatchNorm2d(3, momentum=None),
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.GroupNorm(1, 3),
    )
    twin(torch.randn(4, 3, 5, 5))
    network = copy.deepcopy(twin)
    counts = BatchCounts(network)
    for x in torch.randn(3, 4, 3, 5, 5):
        assert torch.equal(network(x), twin(x))
    left = {name for name in network.state_dict() if name.endswith("num_batches_tracked")}
    assert left == {"2.num_batches_tracked", "3.num_batches_tracked"}
    copy.deepcopy(network)(x)  # the probe's
    theirs = twin.state_dict()
    with counts.after(3):
        ours = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        network.load_state_dict(theirs)
    assert list(ours) == list(theirs)
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name
        assert ours[name].dtype == tensor.dtype
    with pytest.raises(RuntimeError, match="Unexpected"), counts.after(3):
        network.load_state_dict({**theirs, "other": x})
    assert len(network.state_dict()) == len(theirs) - 2
    with counts.after(0):
        assert network[0].num_batches_tracked == 1  # of before, not those of what was loaded


@pytest.mark.parametrize("detach", ["none", "both"])
def test_files_have_the_number_of_batches(program: Program, detach: str) -> None:
    """Also those written within an epoch; the averaged network has its measurements'."""
    options = [f"norm.detach={detach}", "regularization.ema_decay=0.9"]
    run = directory(*options)

    def found(file: str) -> dict[str, set[int]]:
        saved = torch.load(run / file, weights_only=True)
        networks = {kind: saved[kind].items() for kind in ("model", "ema")}
        return {
            kind: {int(value) for key, value in weights if key.endswith("num_batches_tracked")}
            for kind, weights in networks.items()
        }

    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 2, 1, signal.SIGTERM)
        program(*TINY, *options)
    assert found("last.pt") == {"model": {6}, "ema": {4}}
    assert found("best.pt") == {"model": {4}, "ema": {4}}
    assert program(*TINY, *options).code == 0
    assert found("last.pt") == {"model": {8}, "ema": {8}}
