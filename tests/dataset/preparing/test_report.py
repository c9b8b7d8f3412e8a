"""What is printed: how many conversations show pictures, and what was changed in records."""

from __future__ import annotations

from tests.helpers.workplace import llava, picture, talk


def printed(workplace, capsys, *overrides: str) -> list[str]:
    assert workplace.run(*overrides) == 0
    return capsys.readouterr().out.splitlines()


def test_conversations_with_and_without_pictures_are_counted(workplace, capsys):
    workplace.source(
        "en", "llava", [llava("a.png", "<image>?", "a"), llava("a.png", "q", "a"), llava(None, "1+1?", "2")]
    )
    picture(workplace.folder / "en" / "a.png")
    lines = printed(workplace, capsys)
    assert "pictures  2 conversations show pictures, 1 show none" in lines
    assert not any("WARNING" in line for line in lines)


def test_a_source_with_a_folder_of_images_that_shows_none_is_named_loudly(workplace, capsys):
    workplace.source("one", "llava", [llava("a.png", "<image>?", "a")])
    picture(workplace.folder / "one" / "a.png")
    workplace.source("two", "llava", [{**llava(None, "What?", "a"), "see": "page 7"}] * 3)
    picture(workplace.folder / "two" / "a.png")
    lines = printed(workplace, capsys)
    assert "pictures  1 conversations show pictures, 3 show none" in lines
    (warning,) = (line for line in lines if "WARNING" in line)
    assert warning.startswith(
        "WARNING: none of the 3 conversations of source two shows a picture, although it has a folder"
    )


def test_a_source_of_which_nothing_is_used_is_named_loudly(workplace, capsys):
    workplace.source("one", "llava", [llava("a.png", "<image>?", "a")] * 9)
    picture(workplace.folder / "one" / "a.png")
    workplace.source("two", "llava", [llava("a.png", "<image>?", "")], "one")
    lines = printed(workplace, capsys, "data.max_skipped=0.1")
    assert "WARNING: none of the 1 records of source two is used" in lines


def test_what_was_changed_within_records_is_counted_with_an_example(workplace, capsys):
    leading = {"image": "a.png", "conversations": [{"from": "gpt", "value": "Hello."}, *talk("<image>?", "a <image>")]}
    records = [llava("a.png", "<image>?", "a"), llava("a.png", "<image>?", "a", "Thanks.")]
    workplace.source("en", "llava", [*records, leading, llava("a.png", "<image>?", "a", "Bye.")])
    workplace.source("zh", "llava", [llava("a.png", "<image>?", "a", "Why?", "", "So?")], "en")
    picture(workplace.folder / "en" / "a.png")
    lines = printed(workplace, capsys)
    at = lines.index("changed in records that are used:")
    assert lines[at + 1 : at + 5] == [
        "  3 x question without an answer at the end dropped (first in record 1 of en.json)",
        "  1 x answer before the first question dropped (first in record 2 of en.json)",
        "  1 x answer with a placeholder of an image, which was removed (first in record 2 of en.json)",
        "  1 x turn with an empty answer dropped (first in record 0 of zh.json)",
    ]
    assert lines[0].split()[-1] == "skipped" and lines[1].split() == ["en", "4", "1", "4", "4", "0"]


def test_records_that_are_used_as_they_are_are_not_mentioned(workplace, capsys):
    workplace.source("en", "llava", [llava("a.png", "<image>?", "a")])
    picture(workplace.folder / "en" / "a.png")
    assert not any("changed" in line for line in printed(workplace, capsys))


def test_a_share_that_gives_hardly_any_images_is_named_and_a_larger_one_is_not(workplace, capsys):
    workplace.source("en", "llava", [llava(f"{n}.png", "<image>?", "a") for n in range(40)])
    for n in range(40):
        picture(workplace.folder / "en" / f"{n}.png")
    few = printed(workplace, capsys, "data.validation=0.02", "data.test=0.5")
    (line,) = (line for line in few if "too few" in line)
    assert line.startswith("data.validation = 0.02: the split has ") and " of 40 images" in line
    assert not any("too few" in line for line in printed(workplace, capsys, "data.validation=0.4", "data.test=0.4"))
    assert not any("too few" in line for line in printed(workplace, capsys, "data.validation=0", "data.test=0"))
