"""Hooks of one thread, copies without hooks, and draws of one thread."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.networks import count_hooks
from ttame.classifiers.passes import OwnDraws, copy_module, private_view
from ttame.features import capture, hooked
from ttame.methods.replay import replaced


def elsewhere(function: Callable[[], object]) -> None:
    """Run a function in another thread, to its end."""
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_a_hook_sees_its_own_thread_alone_and_may_be_nested() -> None:
    module, seen = nn.Identity(), list[str]()
    with hooked(module, lambda _m, _a, out: seen.append(f"outer {out}")):
        elsewhere(lambda: module(1))
        with hooked(module, lambda _m, args: seen.append(f"before {args[0]}"), before=True):
            module(2)
        module(3)
    module(4)
    assert seen == ["before 2", "outer 2", "outer 3"]
    assert count_hooks(module) == 0


def test_a_hook_goes_after_an_exception_in_either_place() -> None:
    module = nn.Identity()

    def fail(*_: object) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"), hooked(module, fail):
        module(1)
    with pytest.raises(RuntimeError, match="own"), hooked(module, lambda *_: None):
        raise RuntimeError("own")
    assert count_hooks(module) == 0


def test_replacing_an_output_is_not_seen_by_others() -> None:
    module, found = nn.Identity(), list[Tensor]()
    with replaced(module, torch.zeros(2)):
        elsewhere(lambda: found.append(module(torch.ones(2))))
        assert torch.equal(module(torch.ones(2)), torch.zeros(2))
    assert torch.equal(found[0], torch.ones(2))


def test_copies_during_a_pass_keep_the_models_own_hooks_alone(toy: nn.Module) -> None:
    toy.head.register_forward_hook(lambda _m, _a, out: out + 1)
    image = torch.ones(1, 3, 32, 32)
    with capture(toy, ["stages.0"]) as outputs:
        copied, plain = copy_module(toy), copy.deepcopy(toy)
        copied(image)
        assert not outputs
    assert count_hooks(copied) == 1 == count_hooks(toy)
    outputs.clear()
    plain(image)  # a copy by other means keeps the hook, which is silent now
    assert not outputs
    assert torch.equal(copied(image), toy(image))


def test_a_view_shares_tensors_but_no_settings(toy: nn.Module) -> None:
    view = private_view(toy)
    tensors = [*toy.parameters(), *toy.buffers()]
    assert [id(t) for t in (*view.parameters(), *view.buffers())] == [id(t) for t in tensors]
    view.head.register_forward_hook(lambda _m, _a, out: out + 1)
    assert count_hooks(toy) == 0
    image = torch.ones(1, 3, 32, 32)
    assert torch.allclose(view(image), toy(image) + 1)


def test_own_draws_are_those_of_the_seed_and_leave_the_global_generator() -> None:
    torch.manual_seed(7)
    expected, after = nn.Linear(5, 4), torch.rand(3)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    with OwnDraws(7):
        found = nn.Linear(5, 4)
        elsewhere(lambda: torch.rand(100))  # takes from the global one, not from ours
        more = torch.empty(3).uniform_()
    assert torch.equal(found.weight, expected.weight) and torch.equal(found.bias, expected.bias)
    assert torch.equal(more, after)
    assert not torch.equal(torch.get_rng_state(), state)  # the other thread's draws alone
    torch.manual_seed(7)
    torch.rand(100)
    state = torch.get_rng_state()
    with OwnDraws(1):
        nn.Linear(5, 4)
    assert torch.equal(torch.get_rng_state(), state)
