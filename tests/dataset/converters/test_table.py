"""Tables as spreadsheets and scripts write them."""

from __future__ import annotations

import pytest

from common.errors import UserError
from dataset.converters.base import Example

HEADER = "image;question;answer;type"
ROWS = f'{HEADER}\r\na.jpg;How many?;two;count\r\nb.jpg;"Is it ""red"";\r\nor blue?";red;\r\n;1+1?;2;\r\n;;;\r\n'


def question(text, *answers, image="a.jpg", **more) -> Example:
    return Example([image] if image else [], [("human", text), ("gpt", list(answers))], **more)


EXPECTED = [
    question("How many?", "two", type="count"),
    question('Is it "red";\nor blue?', "red", image="b.jpg"),
    question("1+1?", "2", image=None),
]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_whatever_a_spreadsheet_exports(files, delimiter, encoding, ends):
    text = ROWS.replace('red"";', 'red""\0').replace(";", delimiter).replace("\0", ";").replace("\r\n", ends)
    path = files.write("a.csv", text.encode(encoding))
    assert files.looks_like(path) == "table"
    assert files.read("table", path) == EXPECTED


def test_the_line_that_names_excels_delimiter_is_no_row(files):
    path = files.write("a.csv", "sep=;\n" + ROWS)
    assert files.read("table", path) == EXPECTED


def test_columns_of_other_names(files):
    path = files.write("a.csv", "Datei,Frage,Antwort\na.jpg,Wie viele?,zwei\n")
    columns = {"image": "Datei", "question": "Frage", "answer": "Antwort"}
    assert files.read("table", path, columns=columns) == [question("Wie viele?", "zwei")]
    path = files.write("a.jsonl", '{"Datei": "a.jpg", "Frage": "Wie viele?", "Antwort": 2}\n')
    assert files.read("table", path, columns=columns) == [question("Wie viele?", "2")]


def test_json_rows_with_lists(files):
    rows = [{"image": ["a.jpg", "b.jpg"], "question": "Same?", "answer": ["yes", "yes", "no"], "id": 7, "split": "val"}]
    path = files.write("a.json", rows)
    assert files.looks_like(path) == "table"
    (example,) = files.read("table", path)
    assert example.images == ["a.jpg", "b.jpg"] and example.messages[1] == ("gpt", ["yes", "yes", "no"])
    assert (example.id, example.split) == ("7", "validation")


def test_options_are_added_to_the_question_a_line_each(files):
    path = files.write("a.tsv", "image\tquestion\tA\tB\tC\tD\tanswer\na.jpg\tWhich?\tred\tdark  blue\t\tx\tB\n")
    expected = question("Which?\nA. red\nB. dark blue", "B")
    assert files.read("table", path) == [expected]
    rows = [{"image": "a.jpg", "question": "Which?", "options": ["red", "dark blue"], "answer": "B"}]
    assert files.read("table", files.write("a.jsonl", rows)) == [expected]
    alone = files.write("b.csv", "image,question,answer,A,D\na.jpg,Which?,red,one,two\n")
    assert files.read("table", alone) == [question("Which?", "red")]


def test_ten_answers_are_ten_references(files):
    names = ",".join(f"answer_{n}" for n in range(1, 11))
    path = files.write("a.csv", f"image,question,answer,{names}\na.jpg,What?,net,net,net,,mesh,,,,,,net\n")
    assert files.read("table", path) == [question("What?", "net", "net", "mesh", "net")]


def test_a_table_of_captions(files):
    path = files.write("a.csv", "image,caption\na.jpg,一只猫\nb.jpg,a dog\n")
    chinese, english = files.read("table", path)
    assert (chinese.images, chinese.captions, chinese.caption_language) == (["a.jpg"], ["一只猫"], "zh")
    assert (english.images, english.captions, english.caption_language) == (["b.jpg"], ["a dog"], "en")


def test_a_row_that_cannot_be_used_is_named_as_the_spreadsheet_counts_it(files):
    rows = [
        "image,question,answer,split",
        "a.jpg,?",
        "a.jpg,,yes,",
        "",
        'a.jpg,"two\nlines",,',
        "a.jpg,?,yes,holdout",
        ",?,no,test",
    ]
    path = files.write("a.csv", "\n".join(rows))
    assert files.read("table", path) == [
        "row 2: has 2 cells, the header has 4",
        "row 3: question is empty",
        "row 5: the answer is empty",
        "row 6: split is 'holdout', expected train, validation or test",
        question("?", "no", image=None, split="test"),
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "image,frage,answer\na,b,c\n",
            'row 1 has no column "question"; it has "image", "frage", "answer"; give its name',
        ),
        ("image,image,question,answer\n", 'row 1 names the column "image" twice'),
        ('image,question,answer\na,b,c\na,"b,c\n', "row 3 cannot be read as CSV: unexpected end of data"),
        ('image,question,answer\na,"b"c,d\n', "row 2 cannot be read as CSV"),
        ("image,question,answer\na,b," + "x" * 2_000_000, "row 2 cannot be read as CSV: a line of more than 1,048,576"),
        (
            "image,question,answer\na,b,c\n多少,b,c\n".encode("gbk"),
            "row 3 is not UTF-8 text; save the file as CSV UTF-8",
        ),
        ("", 'row 1 has no column "image"; it has none'),
    ],
)
def test_a_broken_table_is_one_line_that_names_the_row(files, content, expected):
    path = files.write("a.csv", content)
    with pytest.raises(UserError) as caught:
        files.read("table", path)
    assert expected in str(caught.value) and "\n" not in str(caught.value) and str(path) in str(caught.value)
