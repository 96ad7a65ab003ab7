"""Calibration: the tau that anchors a share of the words, what it warns of, and its command."""

import json
import warnings

import pytest
import torch

import vlm_anchors as va
from vlm_anchors import scenes
from vlm_anchors.analysis.calibration import _calibration
from vlm_anchors.apps.cli import main
from vlm_anchors.errors import AnchorsWarning, BadSetting

QUESTIONS = ["Is there a dog in the image?", "Describe this image in detail.", "cup?"]


@pytest.fixture(scope="module")
def samples():
    images = [scenes.render(scenes.from_objects(["cup", "dog"], seed=i)) for i in range(4)]
    return [(image, question) for image in images for question in QUESTIONS]


def test_the_share_asked_for_becomes_anchors(tiny, samples):
    found = va.calibrate(tiny, samples, fraction=0.25, batch_size=5)
    assert abs(found.share(found.tau) - 0.25) <= 1 / len(found.cosines) + 1e-9
    summary = [va.ask(tiny, *sample, method=va.AttAnchor(tau=found.tau), max_new_tokens=1) for sample in samples]
    inserted = sum(answer.effects["attanchor"]["tokens_inserted"] for answer in summary)
    assert abs(inserted / len(found.cosines) - found.share(found.tau)) < 0.02
    assert list(found.cosines) == sorted(found.cosines, reverse=True)
    assert found.shares[1.0] == 0.0 and found.shares[0.08] >= found.shares[0.5]
    assert va.calibrate((tiny.model, tiny.processor), samples, fraction=0.25) == found


def test_shares_and_quantiles_by_hand():
    found = _calibration([0.5, 0.4, 0.3, 0.2, 0.1, 0.1, 0.05, 0.0, -0.1, -0.2], 0.3)
    assert found.tau == 0.3 and found.share(0.3) == 0.3 and found.share(1.0) == 0.0
    assert found.shares[0.1] == 0.6 and found.shares[0.5] == 0.1
    assert found.quantile(0.0) == -0.2 and found.quantile(1.0) == 0.5
    assert found.concern == "" and json.dumps(found.as_dict())


@pytest.mark.parametrize(
    ("cosines", "sentence"),
    [
        ([-0.1, -0.2, -0.3] * 10, "Not even 10% of the words resemble a patch"),
        ([0.110, 0.105, 0.101] * 10, "The cosine separates nothing: four fifths"),
    ],
)
def test_a_cosine_that_separates_nothing_is_told(cosines, sentence):
    assert sentence in _calibration(sorted(cosines, reverse=True), 0.1).concern


def test_words_that_do_not_stand_out_are_told():
    """A crowd with no other kind of word in it, as on images too dark to recognise; and one with a tenth far above."""
    noise = sorted((0.05 * torch.randn(2000, generator=torch.Generator().manual_seed(0))).tolist(), reverse=True)
    dark = _calibration(noise, 0.1)
    assert 1.2 < dark.stand_out < 1.6 and "hardly separate words: the highest tenth lies 1.4 times" in dark.concern
    clear = _calibration(sorted([0.5] * 200 + noise, reverse=True), 0.1)
    assert clear.stand_out > 5 and clear.concern == ""
    assert _calibration([0.3, 0.2, 0.1], 0.4).concern == "", "three words tell nothing"
    assert _calibration([0.2] * 3, 0.4).stand_out is None


def test_the_warning_reaches_the_user(tiny, samples):
    table = tiny.model.get_input_embeddings().weight
    kept = table.detach().clone()
    try:
        with torch.no_grad():
            table.copy_(table[10].expand_as(table))
        with pytest.warns(AnchorsWarning, match="separates nothing|resemble a patch"):
            va.calibrate(tiny, samples[:3])
    finally:
        with torch.no_grad():
            table.copy_(kept)


def test_the_figure_shows_distribution_shares_and_tau(tmp_path):
    cosines = tuple(0.9 - 0.01 * i for i in range(90))
    found = _calibration(list(cosines), 0.2)
    counts, shares = found.figure(tmp_path / "tau.png").axes
    assert "cosine" in counts.get_xlabel() and counts.get_ylabel() == "words (of 90)" and shares.get_ylabel()
    assert sum(bar.get_height() for bar in counts.patches) == 90
    (curve,), (line,) = shares.lines, counts.lines
    for tau, share in zip(*curve.get_data(), strict=True):
        assert share == pytest.approx(found.share(tau))
    assert set(line.get_xdata()) == {found.tau}
    assert f"tau = {found.tau:g} anchors {found.share(found.tau):.1%}" in counts.get_title(loc="left")


@pytest.mark.parametrize("fraction", [0, 1.5, "some", True])
def test_bad_fractions(tiny, samples, fraction):
    with pytest.raises(BadSetting, match="above 0 and at most 1"):
        va.calibrate(tiny, samples, fraction)


def test_nothing_to_calibrate_on(tiny):
    with pytest.raises(BadSetting, match="found none"):
        va.calibrate(tiny, [])


def test_the_command(tiny_folder, samples, tmp_path, capsys):
    for number, (image, _) in enumerate(samples[::3]):
        image.save(tmp_path / f"{number}.png")
    (tmp_path / "asked.txt").write_text("\n".join(QUESTIONS) + "\n")
    arguments = [
        "calibrate",
        "--model",
        str(tiny_folder),
        "--images",
        str(tmp_path),
        "--questions",
        str(tmp_path / "asked.txt"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AnchorsWarning)
        assert main([*arguments, "--fraction", "0.2", "--out", str(tmp_path / "figures" / "tau.png"), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["images"] == 4 and 0 < summary["tau"] < 1 and abs(summary["share"] - 0.2) < 0.05
    assert (tmp_path / "figures" / "tau.png").stat().st_size > 5000
    assert main(arguments) == 0
    assert "words in prompts about 4 images" in capsys.readouterr().out
    for wrong, sentence in (
        ("tau.xyz", "Expected a file ending in .png, .svg or .pdf"),
        ("asked.txt/tau.png", "Cannot write into"),
        ("", "Expected a file to write"),
    ):
        assert main([*arguments, "--out", str(tmp_path / wrong)]) == 2
        summary = capsys.readouterr()
        assert sentence in summary.err and summary.out == "", "refused before anything is computed"
    assert main(["calibrate", "--images", str(tmp_path / "none")]) == 2
    assert "Expected a folder of images" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["calibrate", "--images", str(tmp_path / "empty")]) == 2
    assert "No images in" in capsys.readouterr().err
    (tmp_path / "asked.txt").write_text("\n")
    assert main(arguments) == 2
    assert "holds no question" in capsys.readouterr().err
