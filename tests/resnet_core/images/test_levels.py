"""Gray levels: what is white, with hand-made values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from resnet_core.images.decision import decide, in_words
from resnet_core.images.levels import (
    BadImageError,
    Decided,
    Found,
    Pair,
    Percentiles,
    Rule,
    Setting,
    Stored,
    UndecidedError,
    claim,
    depth,
    measured,
    scale,
    to_gray,
)
from resnet_core.images.preprocessing import Preprocessing

NOTHING = Rule(decided=Decided())


def gray(levels: list[float], kind: str, rule: Rule, **word: object) -> list[int]:
    return to_gray(Stored(np.array([levels], kind), **word), rule)[0].tolist()  # type: ignore[arg-type]


def decided(levels: list[list[float]], kind: str, setting: Setting = None) -> Decided:
    """What a data set of such images decides."""
    rule = Rule(setting, decided=Decided())
    found = [measured(Stored(np.array([each], kind)), quantiles=isinstance(setting, Percentiles)) for each in levels]
    return decide(found, rule)


def test_eight_bits_are_not_touched() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for rule in (NOTHING, Rule(), Rule(12, decided=Decided()), Rule((0, 4095), decided=Decided())):
        assert to_gray(Stored(levels), rule) is levels
    assert gray([-128, 0, 127], "i1", NOTHING) == [0, 128, 255]


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_a_depth_spreads_black_to_white(bits: int) -> None:
    white = 2**bits - 1
    for word in ({"stated": depth(bits)}, {"claimed": depth(bits)}):
        rule = Rule(decided=Decided(claims=True))
        assert gray([0, white // 2, white], "u2", rule, **word) == [0, 127, 255]
    assert gray([0, white], "u2", Rule(bits, decided=Decided())) == [0, 255]  # type: ignore[arg-type]
    assert gray([0, white], "u2", Rule(decided=Decided(integers=depth(bits)))) == [0, 255]
    assert gray([0, white], ">u2", Rule(decided=Decided(integers=depth(bits)))) == [0, 255]


@pytest.mark.parametrize(
    ("levels", "kind", "wanted"),
    [
        ([[0, 255]], "u2", (0, 255)),
        ([[3, 700]], "u2", (0, 1023)),
        ([[0, 4080], [100, 300]], "u2", (0, 4095)),
        ([[0, 4095], [0, 4096]], "u2", (0, 16383)),
        ([[0, 4000], [0, 65000]], "u2", (0, 65535)),
        ([[0, 60000]], "u4", (0, 65535)),
        ([[7, 4_294_967_295]], "u4", (0, 4_294_967_295)),
        ([[-1024, 40], [-1000, 3071]], "i2", (-1024, 3071)),
        ([[0, 4071]], "i2", (0, 4095)),
    ],
)
def test_integers_without_a_word_are_as_deep_as_the_data_set_needs(
    levels: list[list[float]], kind: str, wanted: Pair
) -> None:
    assert decided(levels, kind) == Decided(integers=wanted)


@pytest.mark.parametrize(
    ("levels", "wanted"),
    [
        ([[0, 1]], (0, 1)),
        ([[0, 0.6], [0, 1.02]], (0, 1)),
        ([[-0.03, 1.05]], (0, 1)),
        ([[-1, 1]], (-1, 1)),
        ([[-0.9, 0.2], [0, 0.4]], (-1, 1)),
        ([[0, 255]], (0, 255)),
        ([[12, 80], [3, 199]], (0, 255)),
        ([[0, 65535]], (0, 65535)),
        ([[200, 40000]], (0, 65535)),
        ([[-1024, 3071]], (-1024, 3071)),
        ([[0.5, 5]], (0.5, 5)),
        ([[0, 0.01]], (0, 0.01)),
    ],
)
def test_floats_have_the_scale_of_the_data_set(levels: list[list[float]], wanted: Pair) -> None:
    assert decided(levels, "f8") == Decided(floats=wanted)


def test_a_little_beyond_one_is_white_and_not_255() -> None:
    rule = Rule(decided=Decided(floats=(0, 1)))
    assert gray([-0.02, 0, 0.5, 1, 1.02], "f4", rule) == [0, 0, 128, 255, 255]


@pytest.mark.parametrize(
    ("kind", "levels", "span"), [("u2", [0, 4096], (0, 4095)), ("f4", [0, 1.2], (0, 1)), ("i2", [-2000, 0], (-1024, 0))]
)
def test_an_image_beyond_the_range_is_refused_or_clipped_on_request(kind: str, levels: list[float], span: Pair) -> None:
    found = Decided(integers=None if kind == "f4" else span, floats=span if kind == "f4" else None)
    with pytest.raises(BadImageError, match=r"beyond levels: .* Set `image: \{levels: ") as error:
        gray(levels, kind, Rule(decided=found))
    assert error.value.reason.code == "beyond_levels"
    assert set(gray(levels, kind, Rule(clip=True, decided=found))) == {0, 255}


def test_claims_count_if_they_are_true_of_all() -> None:
    low, high = Found("integers", 0, 900, depth(10)), Found("integers", 0, 4000, depth(12))
    assert decide([low, high], NOTHING) == Decided(claims=True)
    scaled = Found("integers", 0, 65520, depth(12))  # the PNG standard's way to write 12 bits
    assert decide([low, scaled], NOTHING) == Decided(integers=(0, 65535), claims=False)
    other = Found("integers", 0, 300)
    assert decide([low, other], NOTHING) == Decided(integers=(0, 1023), claims=True)
    rule = Rule(decided=Decided(integers=(0, 65535), claims=False))
    assert gray([0, 4095], "u2", rule, claimed=depth(12)) == [0, 16]
    with pytest.raises(BadImageError, match="beyond"):
        gray([0, 4096], "u2", Rule(decided=Decided(claims=True)), claimed=depth(12))


def test_what_is_decided_stays() -> None:
    before = Decided(integers=(0, 4095))
    found = [Found("integers", 0, 60000), Found("floats", 0, 1)]
    assert decide(found, Rule(decided=before)) == Decided(integers=(0, 4095), floats=(0, 1))


def test_a_setting_wins_over_claims_and_a_range_over_every_word() -> None:
    assert gray([0, 4095], "u2", Rule(12, decided=Decided()), claimed=depth(10)) == [0, 255]
    assert gray([0, 1023], "u2", Rule(12, decided=Decided()), stated=depth(10)) == [0, 255]
    window = Rule((-160, 240), clip=True, decided=Decided())
    assert gray([-1000, -160, 41, 240, 900], "i2", window, stated=(-1024, 3071)) == [0, 0, 128, 255, 255]
    assert gray([0, 100, 200], "u1", Rule((100, 200), clip=True, decided=Decided())) == [0, 0, 255]


def test_data_and_percentiles_are_of_each_kind_of_images() -> None:
    rule = Rule("data", decided=Decided())
    found = [Found("bytes", 60, 180), Found("bytes", 50, 99), Found("integers", 7, 777), Found("floats", -2, 3)]
    assert decide(found, rule) == Decided(bytes=(50, 180), integers=(7, 777), floats=(-2, 3))
    assert gray([50, 115, 180], "u1", Rule("data", decided=decide(found, rule))) == [0, 128, 255]
    levels = [list(range(1000)), list(range(1000))]
    black, white = decided(levels, "u2", Percentiles((1, 99))).integers or (0, 0)
    assert (black, white) == (pytest.approx(10, abs=3), pytest.approx(989, abs=3))


def test_padding_is_outside_of_the_range_and_shows_the_background() -> None:
    levels = np.array([[100, 65535, 200]], np.uint16)
    for padding in (65535, levels == 65535):
        stored = Stored(levels, padding=padding)
        assert measured(stored)[:3] == ("integers", 100, 200)
        rule = Rule(decided=Decided(integers=(100, 200)), background=9)
        assert to_gray(stored, rule).tolist() == [[0, 9, 255]]
        assert to_gray(stored._replace(inverted=True), rule).tolist() == [[255, 9, 0]]
    assert gray([np.nan, 0, 1], "f4", Rule(decided=Decided(floats=(0, 1)), background=7)) == [7, 0, 255]
    assert gray([-9999, 0, 1], "f4", Rule(decided=Decided(floats=(0, 1))), padding=-9999) == [0, 0, 255]
    lowest = -3.4028234663852886e38  # as GDAL writes it
    assert gray([lowest, 0, 1], "f4", Rule(decided=Decided(floats=(0, 1))), padding=lowest) == [0, 0, 255]


@pytest.mark.parametrize("levels", [[np.nan, np.nan], [0, np.inf]])
def test_an_image_without_measurements_is_damaged(levels: list[float]) -> None:
    with pytest.raises(BadImageError, match="damaged"):
        gray(levels, "f4", NOTHING)


def test_a_flat_image_decides_nothing() -> None:
    with pytest.raises(BadImageError, match="blank: every pixel is 513") as error:
        gray([513, 513], "u2", NOTHING)
    assert not isinstance(error.value, UndecidedError)
    assert gray([513, 513], "u2", Rule(decided=Decided(integers=(0, 1023)))) == [128, 128]


def test_levels_without_a_decision_are_refused_with_the_remedy() -> None:
    with pytest.raises(UndecidedError, match=r"uint16 levels, 3 to 700, without a stated white.* retrain") as error:
        gray([3, 700], "u2", NOTHING)
    assert error.value.found[:3] == ("integers", 3, 700)


def test_versions_of_older_releases_scale_each_file_by_itself() -> None:
    assert gray([0, 4095], "u2", Rule()) == [0, 16]
    assert gray([0, 4095], "u2", Rule(), claimed=depth(12)) == [0, 16]
    assert gray([0, 0.5, 1], "f4", Rule()) == [0, 128, 255]
    assert gray([0, 255], "f4", Rule()) == [0, 1]
    assert gray([0, 1.02], "f4", Rule()) == [0, 0]
    assert gray([-5, 5], "f4", Rule()) == [0, 255]
    assert gray([10, 20], "u2", Rule("data")) == [0, 255]


@given(arrays(np.int16, (4, 5)), st.integers(-40000, 40000), st.integers(1, 70000))
def test_a_table_gives_what_the_definition_gives(levels: np.ndarray, black: int, width: int) -> None:
    wanted = np.rint((levels.astype(float) - black) * (255 / width)).clip(0, 255)
    assert np.array_equal(scale(levels, black, black + width), wanted)
    unsigned = levels.view(np.uint16)
    wanted = np.rint((unsigned.astype(float) - black) * (255 / width)).clip(0, 255)
    assert np.array_equal(scale(unsigned, black, black + width), wanted)


@pytest.mark.parametrize(
    ("span", "wanted"), [((0, 4095), (0, 4095)), ((0, 1023.0), (0, 1023)), ((0, 4000), None), ((12, 4095), None)]
)
def test_only_a_whole_depth_is_a_claim(span: Pair, wanted: Pair | None) -> None:
    assert claim(*span) == wanted


@pytest.mark.parametrize("setting", [None, 12, (5.0, 900.0), "data", Percentiles((0.5, 99.5))])
@pytest.mark.parametrize("found", [None, Decided(), Decided((0, 9), (0, 4095), (0, 1), claims=True)])
def test_settings_survive_their_json(setting: Setting, found: Decided | None) -> None:
    import json
    from dataclasses import asdict

    settings = Preprocessing(64, levels=setting, beyond="clip", decided=found)
    assert Preprocessing.of(json.loads(json.dumps(asdict(settings)))) == settings
    assert hash(settings) == hash(Preprocessing.of(json.loads(json.dumps(asdict(settings)))))


def test_settings_of_older_releases_scale_each_file_by_itself() -> None:
    old = Preprocessing.of({"size": 64, "resize": "fit", "background": 0, "decode": "exact"})
    assert old.decided is None
    assert old.same_pixels(Preprocessing(64, "fit"))
    assert not old.same_pixels(Preprocessing(64, "fit", decided=Decided(integers=(0, 4095))))
    assert not old.same_pixels(Preprocessing(64, "fit", levels=12))


def test_a_decision_in_words() -> None:
    rule = Rule(decided=Decided(integers=(0, 4095), floats=(-1, 1.5), claims=True))
    assert in_words(rule) == ["deeper images 12 bits, 0 to 4,095", "float images -1 to 1.5", "by the files' own fields"]
