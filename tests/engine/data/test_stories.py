"""The embedded corpus keeps its promises: the same for ever, sound English, facts that hold, a floor that is known."""

import hashlib
import re
from itertools import islice

import pytest

from trainer_daemon.engine.data.stories import (
    LEVELS,
    PROBE_KINDS,
    Story,
    floor_bits_per_byte,
    held_out_index,
    is_held_out,
    probes,
    story,
    train_index,
)
from trainer_daemon.engine.data.stories.generator import check_slots, tell
from trainer_daemon.engine.data.stories.grammar import parse_plots, parse_template
from trainer_daemon.engine.data.stories.lexicon import NUMBER_WORDS, POOLS

SEED = 11
PEOPLE = ("hero", "friend", "adult", "neighbour", "pet")
NAMES = {
    entry[""]: entry["he"]
    for pool in ("children", "adults", "neighbours", "pets")
    for entry in POOLS[3][pool]
}
ANY_NAME = re.compile(rf"\b(?:{'|'.join(map(re.escape, NAMES))})\b")
NUMBERS = NUMBER_WORDS.split(", ")


@pytest.fixture(scope="module", params=LEVELS)
def told(request: pytest.FixtureRequest) -> list[Story]:
    return [story(SEED, index, request.param) for index in range(1200)]


@pytest.fixture(scope="module")
def told_at_level_1() -> list[Story]:
    return [story(SEED, index) for index in range(4000)]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def pool(level: int, name: str) -> set[str]:
    return {entry[""] for entry in POOLS[level][name]}


def cast_of(told: Story) -> set[str]:
    return {told.facts[role] for role in PEOPLE if role in told.facts}


# -- the same for ever -------------------------------------------------------------------------------------------------


def test_a_story_is_the_same_however_often_and_in_whatever_order_it_is_told() -> None:
    forwards = [story(SEED, index) for index in range(50)]
    backwards = [story(SEED, index) for index in reversed(range(50))]
    assert forwards == backwards[::-1]


def test_seeds_indices_and_levels_tell_different_stories() -> None:
    texts = {
        story(seed, index, level).text
        for seed in (0, 1, 2**64 - 1)
        for index in range(300)
        for level in LEVELS
    }
    assert len(texts) == 3 * 300 * len(LEVELS)


@pytest.mark.parametrize(
    ("level", "digest"),
    [
        (1, "a2bab32e4978c5aaf83145f43cea77940f3bc788507dadbba115a696a6217c44"),
        (2, "f8f268782952e36aa621c7a44a8804a129d8211e272d3077a2936fe6c69a3a7b"),
        (3, "00b350521903dc2a2cd88ddb76af784ad84c442f5360ff581102e899750e7b84"),
    ],
)
def test_the_first_thousand_stories_are_those_of_this_generator_version(level: int, digest: str) -> None:
    """Whoever changes a story raises GENERATOR_VERSION and these with it: runs are compared across machines and years."""
    text = "\n".join(story(0, index, level).text for index in range(1000))
    assert hashlib.sha256(text.encode()).hexdigest() == digest


def test_a_level_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="level 4 is not one of 1, 2, 3"):
        story(0, 0, 4)


# -- splits ------------------------------------------------------------------------------------------------------------


def test_training_and_held_out_indices_divide_all_stories_between_them() -> None:
    train = [train_index(position) for position in range(990)]
    held_out = [held_out_index(position) for position in range(10)]
    assert sorted(train + held_out) == list(range(1000))
    assert train == sorted(train)
    assert all(is_held_out(index) for index in held_out)
    assert not any(is_held_out(index) for index in train)


# -- size and entropy --------------------------------------------------------------------------------------------------


def test_the_floor_at_level_1_is_between_a_tenth_and_an_eighth_of_a_bit_per_byte() -> None:
    assert 0.100 < floor_bits_per_byte(SEED, range(2000)) < 0.125


def test_higher_levels_have_higher_floors() -> None:
    floors = [floor_bits_per_byte(SEED, range(1000), level) for level in LEVELS]
    assert floors == sorted(floors)


def test_the_floor_is_the_bits_of_the_stories_over_their_bytes() -> None:
    pair = [story(SEED, 3), story(SEED, 5)]
    expected = sum(told.bits for told in pair) / sum(len(told.text.encode()) for told in pair)
    assert floor_bits_per_byte(SEED, [3, 5]) == pytest.approx(expected)


def test_the_floor_of_no_stories_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        floor_bits_per_byte(SEED, [])


def test_stories_are_short_enough_for_a_context_of_256_tokens(told: list[Story]) -> None:
    sizes = [len(one.text) for one in told]
    assert all(300 < size < 700 for size in sizes)
    assert 430 < sum(sizes) / len(sizes) < 500


def test_level_1_has_few_names_few_things_and_few_words(told_at_level_1: list[Story]) -> None:
    people = {
        name
        for one in told_at_level_1
        for role in ("hero", "friend", "pet", "neighbour")
        if (name := one.facts.get(role))
    }
    things = {one.facts[role] for one in told_at_level_1 for role in ("thing", "toy") if role in one.facts}
    vocabulary = {word for one in told_at_level_1 for word in words(one.text)}
    assert len(people) == 16
    assert len(things) == 10
    assert 650 < len(vocabulary) < 850


def test_level_3_has_many_names_and_things() -> None:
    assert len(pool(3, "children")) >= 84
    assert len(pool(3, "things")) >= 30


# -- plots -------------------------------------------------------------------------------------------------------------


def test_at_least_24_plots_are_told_at_every_level(told: list[Story]) -> None:
    assert len({one.facts["plot"] for one in told}) >= 24


def test_a_plot_has_four_to_six_beats_and_each_can_be_told_in_two_ways_or_more() -> None:
    plots = {plot.title: plot for plot, _ in (tell(SEED, index, 1) for index in range(1000))}
    for plot in plots.values():
        assert 4 <= len(plot.beats) <= 6, plot.title
        assert all(len(beat.ways) >= 2 for beat in plot.beats), plot.title


# -- English -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mistake",
    [
        r"[{}|]",  # a template shows
        r"  |^ | $|\n",
        r" [,.!?:]",
        r"[,!?:][,.!?:]|[^.]\.\.[^.]",
        r"\b[Aa] [aeiouAEIOU]\w*|\b[Aa]n [^aeiouAEIOU]\w*",
        r"\b(\w+) \1\b(?<!so so)",  # a word twice
        r"[^.][.!?] [a-z]",  # a sentence without its capital
        r"\b(mouses|foxs|boxs|peachs|cherrys|berrys)\b",
    ],
)
def test_no_story_makes_this_mistake(mistake: str, told: list[Story]) -> None:
    found = [(match.group(), one.facts["plot"]) for one in told if (match := re.search(mistake, one.text))]
    assert found == []


def test_every_story_ends_its_last_sentence_and_closes_its_quotes(told: list[Story]) -> None:
    for one in told:
        assert re.search(r"[.!?]\"?$", one.text), one.text
        assert one.text.count('"') % 2 == 0, one.text


def test_pronouns_are_those_of_the_cast(told: list[Story]) -> None:
    """Where everyone in a story is a she, nobody in it is a he, and the other way round."""
    other = {"she": {"he", "him", "his", "himself", "boy"}, "he": {"she", "her", "herself", "girl"}}
    checked = 0
    for one in told:
        pronouns = {NAMES[name] for name in cast_of(one)}
        if len(pronouns) == 1 and "snowman" not in one.text:
            checked += 1
            assert not other[pronouns.pop()] & set(words(one.text)), one.text
    assert checked > 100


# -- facts hold --------------------------------------------------------------------------------------------------------


def test_every_name_in_a_story_belongs_to_its_cast(told: list[Story]) -> None:
    for one in told:
        cast = {word for name in cast_of(one) for word in re.findall(r"\w+", name)}
        capitals = set(re.findall(r"(?<=[a-z,;] )[A-Z]\w*", one.text))
        assert capitals <= cast | {"I", "Sunday"}, one.text
        assert set(ANY_NAME.findall(one.text)) == cast_of(one), one.text


@pytest.mark.parametrize(
    ("roles", "of"),
    [(("thing", "toy"), "things"), (("colour",), "colours"), (("animal", "animal2"), "animals")],
)
def test_a_thing_a_colour_or_an_animal_in_a_story_is_the_one_it_began_with(
    roles: tuple[str, ...], of: str, told: list[Story]
) -> None:
    for one in told:
        said = pool(3, of) & set(words(one.text))
        assert said <= {one.facts[role] for role in roles if role in one.facts}, one.text


def test_what_was_lost_is_found_where_it_was_left(told: list[Story]) -> None:
    for one in told:
        if one.facts["plot"] == "The lost thing":
            assert pool(3, "places") & set(words(one.text)) == {one.facts["place"]}
            assert one.facts["hiding"] in one.text.lower()


def test_sums_are_right(told: list[Story]) -> None:
    sums = [one for one in told if "sum" in one.facts]
    assert sums
    for one in sums:
        n, m, total = (NUMBERS.index(one.facts[role]) for role in ("n", "m", "sum"))
        assert n + m == total
        assert set(NUMBERS[2:]) & set(words(one.text)) == {NUMBERS[n], NUMBERS[m], NUMBERS[total]}, one.text


def test_hero_and_friend_are_never_the_same(told: list[Story]) -> None:
    assert all(one.facts["hero"] != one.facts.get("friend") for one in told)


def test_facts_are_words_that_the_story_says(told: list[Story]) -> None:
    for one in told:
        for role, word in one.facts.items():
            assert role == "plot" or word.lower().removesuffix("y") in one.text.lower(), (
                role,
                word,
                one.text,
            )


def test_thousands_of_stories_are_all_different(told_at_level_1: list[Story]) -> None:
    assert len({one.text for one in told_at_level_1}) == len(told_at_level_1)
    assert all(30 < one.bits < 70 for one in told_at_level_1)


# -- probes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_a_probe_is_a_held_out_story_cut_before_its_answer(level: int) -> None:
    for probe in probes(SEED, 200, level):
        text = story(SEED, probe.index, level).text
        assert is_held_out(probe.index)
        assert text.startswith(f"{probe.prefix} {probe.choices[probe.gold]}")


@pytest.mark.parametrize("level", LEVELS)
def test_a_probe_has_one_right_choice_and_three_that_its_story_never_says(level: int) -> None:
    for probe in probes(SEED, 200, level):
        assert len(set(probe.choices)) == 4
        said = set(re.findall(r"\w+", story(SEED, probe.index, level).text))
        assert [choice in said for choice in probe.choices].count(True) == 1


def test_only_a_probe_for_a_sum_asks_for_a_word_not_yet_said() -> None:
    for probe in probes(SEED, 200):
        said = set(re.findall(r"\w+", probe.prefix))
        assert (probe.choices[probe.gold] in said) == (probe.kind != "sum"), probe


def test_probes_give_each_kind_its_turn_and_no_place_to_the_answer() -> None:
    asked = list(probes(SEED, 400))
    assert [probe.kind for probe in asked[:5]] == list(PROBE_KINDS)
    assert len({probe.index for probe in asked}) == 400
    for place in range(4):
        assert 60 < sum(probe.gold == place for probe in asked) < 140


def test_more_probes_begin_with_the_same_ones() -> None:
    assert list(islice(probes(SEED, 50), 10)) == list(probes(SEED, 10))


# -- the template language ---------------------------------------------------------------------------------------------


def test_a_beat_left_open_is_refused_with_the_name_of_its_plot() -> None:
    with pytest.raises(ValueError, match=r"plot 'The gap': a brace is not closed"):
        parse_plots("# The gap\n{hero} fell {down|over.\n", {})


@pytest.mark.parametrize("text", ["{hero}} fell", "one|two"])
def test_a_mark_too_many_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="too many"):
        parse_template(text, {})


def test_two_equal_alternatives_are_refused_because_their_choice_would_not_show() -> None:
    with pytest.raises(ValueError, match="equal"):
        parse_template("{hero} {ran|ran}", {})


@pytest.mark.parametrize("slot", ["dragon", "thing.him", "every day"])
def test_a_slot_the_lexicon_cannot_fill_is_refused_with_the_name_of_its_plot(slot: str) -> None:
    with pytest.raises(ValueError, match="plot 'The gap'"):
        check_slots(parse_plots(f"# The gap\n{{hero}} saw {{{slot}}}.\n", {}))


def test_an_indented_line_goes_on_with_the_one_above() -> None:
    (plot,) = parse_plots("# Long\n{hero} ran\n  home.\n{hero} slept.\n\nThe end.\n", {})
    assert [len(beat.ways) for beat in plot.beats] == [2, 1]
    assert plot.beats[0].ways[0][-1] == " ran home."
