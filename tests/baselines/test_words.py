from baselines.words import Words, find_words, padded, split_words


def test_english_is_split_into_words_and_chinese_into_characters():
    assert split_words("What’s the COLOR, of it?") == ["what's", "the", "color", "of", "it"]
    assert split_words("图中有3个circle吗？") == ["图", "中", "有", "3", "个", "circle", "吗"]


def test_the_most_frequent_word_comes_first_and_ties_by_name():
    assert find_words(["b a", "a c"]) == ["a", "b", "c"]


def test_an_unknown_word_and_a_question_without_words_have_the_id_0():
    words = Words(["what", "color"])
    assert len(words) == 3
    assert words.encode("what size") == [1, 0]
    assert words.encode("?!") == [0]


def test_questions_are_padded_to_the_longest():
    input_ids, lengths = padded([[1, 2, 3], [4]])
    assert input_ids.tolist() == [[1, 2, 3], [4, 0, 0]] and lengths.tolist() == [3, 1]
