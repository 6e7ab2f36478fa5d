"""Parts that `lightgen open` adds to a report, which knows its own run alone."""

from lightgen_core.report.page import page_environment

_NEXT_LINK, _NEXT_SECTION = '<a href="#lineage">', '<section id="lineage">'


def insert_part(page: str, template: str, name: str, title: str, **context: object) -> str:
    """Return a report's page with a section before its lineage, and its title in the navigation.

    Args:
        template: renders `<section id="NAME">`, with `context`.

    Raises:
        ValueError: the page is no report.
    """
    if not (page.count(_NEXT_LINK) == page.count(_NEXT_SECTION) == 1):
        raise ValueError(f"found no report: expected {_NEXT_LINK} and {_NEXT_SECTION} once each")
    section = page_environment().get_template(template).render(**context)
    link = f'<a href="#{name}">{title}</a>\n'
    return page.replace(_NEXT_LINK, link + _NEXT_LINK).replace(_NEXT_SECTION, section + _NEXT_SECTION)
