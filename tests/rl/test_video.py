"""Films of policies: short, small, with a poster and words for those who do not see them."""

from __future__ import annotations

import gc
import io

import gymnasium as gym
import imageio.v3 as iio
import pytest

from distill_lib import rl, zoo
from distill_lib.rl import videos


# imageio's reader leaves its pipes to the garbage collector
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("env", ["CartPole-v1", "LunarLander-v3", "Hopper-v5"])
def test_a_film_can_be_read_back_and_moves(env: str, tmp_path) -> None:
    name = {"C": "cartpole_ppo", "L": "lunarlander_ppo", "H": "hopper_ppo"}[env[0]]
    film = rl.video(zoo.load_teacher(name), env, seconds=0.6, fps=10, size=96)
    (tmp_path / "film.mp4").write_bytes(film.mp4)
    frames = iio.imread(tmp_path / "film.mp4", plugin="FFMPEG")
    assert len(frames) == 6 and frames.shape[1] == 96 and frames.shape[2] == film.width
    assert frames[0].std() > 5  # something is drawn
    assert abs(frames[0].astype(float) - frames[-1]).max() > 20  # and moves
    assert iio.imread(io.BytesIO(film.poster), extension=".png").shape == frames[0].shape
    assert len(film.mp4) + len(film.poster) < 60_000
    gc.collect()


def test_it_shows_itself_with_controls_poster_and_words() -> None:
    film = rl.video(zoo.load_teacher("cartpole_ppo"), "CartPole-v1", seconds=0.3, alt='a "pole"')
    shown = film._repr_html_()
    for part in ("<video controls", 'poster="data:image/png;base64,', 'src="data:video/mp4;base64,',
                 'aria-label="a &quot;pole&quot;"', "max-width:100%"):  # fmt: skip
        assert part in shown
    assert repr(film).startswith("Video('a \"pole\"', ")
    assert "autoplay" not in shown


def test_a_short_episode_ends_the_film() -> None:
    film = rl.video(zoo.Policy(4, 2), "CartPole-v1", seconds=20, fps=10, size=64)
    assert "the episode ends after" in film.alt


def test_the_group_of_the_student_is_shown() -> None:
    def env(**kwargs):
        return rl.Privileged(gym.make("CartPole-v1", **kwargs), keep=[0, 2], frames=3)

    film = rl.video(zoo.Policy(6, 2), env, seconds=0.2, size=64)
    assert film.width % 2 == 0


def test_a_film_too_large_for_a_page_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(videos, "LIMIT", 100)
    with pytest.raises(ValueError, match="in a page: fewer seconds or pixels"):
        rl.video(zoo.Policy(4, 2), "CartPole-v1", seconds=0.2)
