import pytest
import torch

from conditional_adapters.modules.context import sequence_context


def test_no_mask_and_a_mask_without_padding_say_nothing() -> None:
    for mask in (None, torch.ones(2, 5, dtype=torch.long)):
        context = sequence_context(mask)
        assert context.token_mask is None
        assert context.lengths is None


def test_lengths_and_their_extremes_are_read_off_a_padding_mask() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 0, 0]])
    context = sequence_context(mask, reduction_factor=2.0)
    assert torch.equal(context.token_mask, mask.bool())
    assert context.lengths.tolist() == [3, 1]
    assert (context.shortest, context.longest) == (1, 3)
    assert context.is_padding_only
    assert context.reduction_factor == 2.0


@pytest.mark.parametrize("is_additive", [False, True])
def test_a_token_is_valid_if_any_query_attends_to_it(is_additive: bool) -> None:
    allowed = torch.zeros(1, 1, 3, 4, dtype=torch.bool)
    allowed[0, 0, 0, 0] = allowed[0, 0, 2, 2] = True
    mask = allowed
    if is_additive:
        mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    context = sequence_context(mask)
    assert context.token_mask.tolist() == [[True, False, True, False]]
    assert not context.is_padding_only
