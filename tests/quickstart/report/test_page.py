"""Plain text is escaped, and numbers are written with one decimal."""

from detcon_d2.quickstart.report.page import number, page, signed


def test_plain_text_of_the_page_is_escaped():
    document = page("a <b>", "", [("x & y", "<p>z</p>")])
    assert "<h1>a &lt;b&gt;</h1>" in document and "<h2>x &amp; y</h2><p>z</p>" in document


def test_values_have_one_decimal_and_differences_a_sign():
    assert (number(3.14), number(float("nan"))) == ("3.1", "–")
    assert signed(2.0) == '<span class="up">+2.0</span>' and signed(-7.32) == '<span class="down">−7.3</span>'
    assert signed(float("nan")) == "–"
