"""Shapes and dtypes in the core's annotations are checked in every test."""

import pytest
import torch
from jaxtyping import TypeCheckError

from lightgen_core.sampling.unmask import pad_text


def test_a_result_has_the_annotated_shape():
    padded, mask = pad_text([torch.ones(2, 4), torch.ones(3, 4)])
    assert (padded.shape, mask.tolist()) == ((2, 3, 4), [[True, True, False], [True, True, True]])


@pytest.mark.parametrize("states", [torch.ones(2, 3, 4), torch.ones(2, 4, dtype=torch.int64)])
def test_a_wrong_shape_or_dtype_is_an_error(states):
    with pytest.raises(TypeCheckError, match="pad_text"):
        pad_text([states])
