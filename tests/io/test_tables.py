"""Tables for people: aligned, and no wider than a screen."""

from em_geometry.io.tables import text_table


def test_a_narrow_table_is_one_line_a_row() -> None:
    text = text_table(["name", "value"], [["a b", 0.123456], ["c", 12]])
    assert text.splitlines() == ["name   value", "------------", "a b   0.1235", "c         12"]


def test_only_words_are_broken_the_widest_column_first_and_none_is_lost() -> None:
    long, short = "every word of it is kept and in its place", "of two words"
    lines = text_table(["what", "n", "which"], [[long, 123456, short]], line=40).splitlines()
    assert max(map(len, lines)) <= 40
    left = lines[2].index("123456")
    assert " ".join(line[:left].strip() for line in lines[2:]) == long
    assert [line for line in lines if "123456" in line] == [lines[2]]
    assert lines[2].endswith(short)


def test_what_cannot_be_broken_stays_whole() -> None:
    name = "a_name_without_any_blank_in_it"
    assert name in text_table(["name"], [[name]], line=12)
    assert text_table(["name", "value"], []).splitlines() == ["name  value", "-----------"]
