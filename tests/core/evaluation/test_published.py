"""Published scores: every row has a source and adds up, and what does not is refused."""

import pytest
from pydantic import ValidationError

from lightgen_core.evaluation.published import CATEGORIES, Published, PublishedRow, published

ROW = {"model": "m", "scores": (0.9, 0.5, 0.4, 0.8, 0.2, 0.2), "overall": 0.5}


def test_the_papers_rows_are_those_of_its_tables():
    """Overall scores as the paper's abstract and text have them, in whatever order the categories are printed."""
    tables = published().tables
    found = {
        name: {row.model: row.overall for row in table.rows if row.model.startswith("lightgen")}
        for name, table in tables.items()
    }
    assert found["1"] == {"lightgen-base": 0.53}
    assert found["2"] == {"lightgen-base": 0.53, "lightgen": 0.62}
    last = tables["2"].rows[-1]
    expected = {"overall": 0.62, "single_object": 0.99, "two_object": 0.65, "counting": 0.60, "colors": 0.87}
    assert tables["2"].scores(last) == expected | {"position": 0.22, "color_attr": 0.43}


def test_every_row_has_a_source_with_an_address():
    data = published()
    for table in data.tables.values():
        for row in table.rows:
            assert table.sources_of(row)
            assert all(data.sources[name].url.startswith("https://") for name in table.sources_of(row))


def test_geneval_s_own_readme_agrees_with_the_third_table():
    """Its figures of three models, which stand there in GenEval's order."""
    readme = {
        "sd-1.5": [0.43, 0.97, 0.38, 0.35, 0.76, 0.04, 0.06],
        "sd-2.1": [0.50, 0.98, 0.51, 0.44, 0.85, 0.07, 0.17],
        "sdxl": [0.55, 0.98, 0.74, 0.39, 0.85, 0.15, 0.23],
    }
    table = published().tables["3"]
    found = {row.model: list(table.scores(row).values()) for row in table.rows if row.model in readme}
    assert found == readme


def test_an_overall_beside_other_scores_needs_an_explanation():
    assert PublishedRow(**ROW).overall == 0.5
    with pytest.raises(ValidationError, match=r"overall 0.6 is not the mean"):
        PublishedRow(**ROW | {"overall": 0.6})
    assert PublishedRow(**ROW | {"overall": 0.6, "misprint": "as printed"}).overall == 0.6
    with pytest.raises(ValidationError, match=r"overall 0.5 is the mean"):
        PublishedRow(**ROW | {"misprint": "none"})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scores": (0.5,)}, "found 1 scores"),
        ({"device_days": 3.0}, "device_days and device go together"),
        ({"overall": 1.2}, "less than or equal to 1"),
    ],
)
def test_a_row_of_another_form_is_refused(change, reason):
    with pytest.raises(ValidationError, match=reason):
        PublishedRow(**ROW | change)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (ROW | {"sources": ("unknown",)}, "sources .'unknown'. are named, and not listed"),
        (ROW | {"model": "other", "sources": ("s",)}, "models .'other'. are named, and not listed"),
        (ROW, "have no source"),
    ],
)
def test_a_row_without_its_source_or_model_is_refused(row, reason):
    table = {"title": "t", "benchmark": "geneval", "order": CATEGORIES, "rows": [row]}
    with pytest.raises(ValidationError, match=reason):
        Published(
            sources={"s": {"title": "t", "url": "https://example.org"}},
            models={"m": {"name": "M", "not_run": "closed"}},
            tables={"1": table},
        )
