"""Text and HTML tables."""

from throughtime.tables import html_table, html_text, text_table


def test_columns_of_a_text_table_are_aligned():
    assert text_table([("a", "long"), ("wider", "b")]) == ["a      long", "wider  b"]


def test_html_escapes_user_text():
    hostile = "<script>alert('1')</script>"
    for page in (html_table((hostile, hostile), [(hostile, hostile)], hostile), html_text(hostile)):
        assert "<script>" not in page
        assert page.count("&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;") == page.count("&lt;script&gt;") > 0
