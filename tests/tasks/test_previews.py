"""Previews of pre-training: held-out captions over the steps, which leave the training as it is."""

import pytest

from flows.load import load_recipe
from flows.pages.previews import newest_previews
from flows.plan import plan
from lightgen_core.images.codec import decode_image
from storage.open_store import open_store
from storage.tables import read_table
from tasks.config.settings import Settings
from tasks.pretrain_previews import PREVIEW_FILE, preview_captions, preview_steps
from tasks.report_student import previews_of
from tests.factories.made_stages import UNTIL_TOKENS, make_stages
from tests.support.contents import contents

pytestmark = [pytest.mark.slow(rank=14), pytest.mark.usefixtures("stages_on_one_thread")]

SMALL = (
    "captions.count=48",
    "synthesis.count=64",
    "pretrain.steps=6",
    "pretrain.batch_size=8",
    "pretrain.log_every=1",
    "pretrain.checkpoint_every=2",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with the same training without and with three previews."""
    store = open_store(str(tmp_path_factory.mktemp("previews")))
    plain = make_stages(store, load_recipe("smoke", SMALL), *UNTIL_TOKENS, "pretrain")
    return store, plain["pretrain"], make_stages(store, with_previews(), "pretrain")["pretrain"]


def with_previews(*more):
    return load_recipe("smoke", [*SMALL, "pretrain.previews=3", *more])


class Interrupted(Exception):
    """Stands for a kill."""


def test_previews_change_neither_weights_nor_log(made):
    _, plain, previewed = made
    found = contents(previewed)
    assert set(found) - set(contents(plain)) == {PREVIEW_FILE}
    assert {name: found[name] for name in plain.names()} == contents(plain)


def test_the_same_captions_are_sampled_after_even_steps(made):
    rows = read_table(made[2], PREVIEW_FILE).to_pylist()
    captions = preview_captions(with_previews())
    assert [(row["step"], row["caption"]) for row in rows] == [(step, each) for step in (2, 4, 6) for each in captions]
    assert len({row["seed"] for row in rows}) == len(captions) == 6
    assert decode_image(rows[0]["image"]["bytes"]).shape == (48, 48, 3)
    assert rows[0]["image"] != rows[12]["image"]


def test_no_preview_caption_is_trained_on(made):
    artifacts = plan(with_previews(), made[0]).artifacts
    assert not {*preview_captions(with_previews())} & {
        *read_table(artifacts["captions"], "^captions")["caption"].to_pylist()
    }


def test_a_training_that_goes_on_ends_with_the_same_previews(made):
    """The kill comes after the second preview, and the last checkpoint is before the next one."""
    store, _, previewed = made
    expected, seen = contents(previewed), []
    planned = plan(with_previews(), store).stages["pretrain"]
    previewed.remove()

    def kill(progress):
        seen.extend(progress.previews)
        if progress.done == 5:
            raise Interrupted

    with pytest.raises(Interrupted):
        planned.stage.run(planned.recipe, Settings(), planned.inputs, planned.artifact, on_progress=kill)
    assert [each.step for each in seen] == [2] * 6 + [4] * 6
    planned.stage.run(planned.recipe, Settings(), planned.inputs, planned.artifact)
    assert contents(planned.artifact) == expected


def test_steps_are_counted_over_all_phases():
    phase = "pretrain.phases=[{size: 48, steps: 9, batch_size: 4}]"
    recipe = load_recipe("smoke", [*SMALL, "tokens.sizes=[32,48]", phase, "pretrain.previews=3"])
    assert preview_steps(recipe) == (5, 10, 15)


def test_captions_of_ones_own_take_the_place_of_held_out_ones():
    assert preview_captions(with_previews("pretrain.preview_captions=[a house]")) == ("a house",)


def test_previews_beyond_steps_or_without_captions_are_refused():
    with pytest.raises(Exception, match="previews 7 exceed the 6 steps of training"):
        load_recipe("smoke", [*SMALL, "pretrain.previews=7"])
    with pytest.raises(Exception, match="preview_captions are given and previews is 0"):
        load_recipe("smoke", [*SMALL, "pretrain.preview_captions=[a house]"])


def test_report_and_live_page_show_them(made):
    found = previews_of(made[2])
    assert (found.steps, len(found.rows), len(found.rows[0].images)) == ((2, 4, 6), 6, 3)
    assert previews_of(made[1]) is None
    assert newest_previews([]) == []


def test_keys_of_recipes_without_previews_stay():
    section = load_recipe("smoke").model_dump(mode="json")["pretrain"]
    assert "previews" not in section and "preview_captions" not in section
