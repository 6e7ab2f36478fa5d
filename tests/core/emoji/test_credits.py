"""Credits reach whoever passes a student on, without the packages at hand."""

from lightgen_core.emoji.credits import credits_of, credits_page


def test_all_six_styles_are_credited_for_every_set():
    for name in ("zoo:emoji/train", "zoo:emoji-all/train", "zoo:emoji-small"):
        credits = credits_of(["photos", name])
        assert [credit.licence for credit in credits].count("CC-BY-4.0") == 1
        assert len(credits) == 6
        assert credits_page(credits).count(" | ") == 7 * 3 + 3


def test_other_sets_need_no_credits_of_ours():
    assert credits_of(["data/cats", "s3://bucket/zoo:emoji"]) == ()
