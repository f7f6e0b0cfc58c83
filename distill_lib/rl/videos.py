"""Short videos of policies, inside the page."""

from __future__ import annotations

import base64
import html
import io
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from distill_lib.arguments import check_counts, checked
from distill_lib.teachers.sb3 import adapted

from .acting import act, asking, check_actions
from .environments import seed_to_evaluate, single
from .evaluation import group
from .spaces import Reader, check_action_space, legal

__all__ = ["Video", "video"]

LIMIT = 300_000  # bytes of a video in a page


@dataclass
class Video:
    """Frames that show themselves in a notebook, with a poster frame and controls.

    Attributes:
        mp4: The H.264 file.
        poster: A PNG of one frame.
        alt: What is to be seen, for those who do not see it.
        width: In pixels.
    """

    mp4: bytes
    poster: bytes
    alt: str
    width: int

    def _repr_html_(self) -> str:
        film, still = (base64.b64encode(raw).decode() for raw in (self.mp4, self.poster))
        return (
            f'<video controls muted loop playsinline preload="metadata" width="{self.width}" '
            f'style="max-width:100%;height:auto" aria-label="{html.escape(self.alt)}" '
            f'poster="data:image/png;base64,{still}" src="data:video/mp4;base64,{film}"></video>'
        )

    def __repr__(self) -> str:
        return f"Video({self.alt!r}, {len(self.mp4) / 1000:.0f} kB)"


def _renderer(env: Any, size: int, **kwargs: Any) -> gym.Env[Any, Any]:
    """An environment that draws without a screen."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    if os.name == "posix" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    spec = gym.registry.get(env) if isinstance(env, str) else None
    if spec is not None and "mujoco" in str(spec.entry_point):
        # the default camera stays where it is, and the robot walks out of the picture
        kwargs = {"camera_name": "track", "width": size, "height": size, **kwargs}
    return single(env, render_mode="rgb_array", **kwargs)


@checked
def video(
    policy: Any,
    env: Any,
    *,
    seconds: float = 5.0,
    fps: int = 15,
    size: int = 240,
    seed: int = 1_000_000,
    noise: float = 0.0,
    alt: str | None = None,
    sees: str = "student",
    **kwargs: Any,
) -> Video:
    """Film one episode.

    Args:
        policy: A module or a teacher.
        env: An id, or a function ``make(**kwargs)`` that passes ``render_mode`` on.
        seconds: Length at most; the film ends with the episode.
        fps: Frames a second; between them as many steps pass as in real time.
        size: Height in pixels, at most.
        seed: Of the environment, as in :func:`distill_lib.rl.evaluate`.
        noise: 0 plays greedily.
        alt: What is to be seen; by default what the policy does and its return.
        sees: The group of the observation that the policy sees, where there are several.
        **kwargs: For the environment.

    Raises:
        ValueError: a film over 300 kB: make it shorter or smaller; no time to film; spaces that no
            policy can read or act in.
        KeyError: a group that is not there.
    """
    import imageio.v3 as iio

    check_counts(fps=fps, size=size)
    check_counts(0, seed=seed)
    if not seconds > 0:
        raise ValueError(f"seconds expected a number > 0, got {seconds}")
    stage = _renderer(env, size, **kwargs)
    check_action_space(stage.action_space)
    reader = Reader(stage.observation_space, [sees])
    steps_a_second = float(stage.metadata.get("render_fps", 30))
    generator = torch.Generator().manual_seed(int(seed))
    seen, _ = stage.reset(seed=seed_to_evaluate(seed))
    frames, total, steps, over = [_shrunk(stage.render(), size)], 0.0, 0, False
    with asking(adapted(policy)) as say:
        while not over and len(frames) < seconds * fps:
            answer = say(group(reader.read([seen]), sees), None)
            if not steps:
                check_actions(answer, stage.action_space, "policy", [1])
            action = legal(act(answer, noise, generator), stage.action_space)[0]
            seen, reward, ended, cut, _ = stage.step(action)
            total, steps, over = total + float(reward), steps + 1, ended or cut
            if steps * fps >= len(frames) * steps_a_second:
                frames.append(_shrunk(stage.render(), size))
    stage.close()
    frames += [frames[-1]] * (fps if over else 0)
    said = f"A policy in {stage.spec.id if stage.spec else 'its environment'}"
    alt = alt or f"{said}: {'the episode ends' if over else 'still going'} after {steps} steps"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "film.mp4"
        options = ["-crf", "30", "-movflags", "+faststart", "-threads", "1"]
        iio.imwrite(file, np.stack(frames), plugin="FFMPEG", fps=fps, codec="libx264",
                    pixelformat="yuv420p", macro_block_size=2, output_params=options)  # fmt: skip
        film = file.read_bytes()
    still = io.BytesIO()
    iio.imwrite(still, frames[len(frames) // 2], extension=".png")
    found = Video(film, still.getvalue(), alt, frames[0].shape[1])
    if len(found.mp4) + len(found.poster) > LIMIT:
        raise ValueError(f"{found!r} passes {LIMIT // 1000} kB in a page: fewer seconds or pixels")
    return found


def _shrunk(frame: Any, size: int) -> np.ndarray:
    """At most ``size`` pixels high, with even sides as the codec wants them."""
    from PIL import Image

    image = Image.fromarray(np.asarray(frame))
    scale = min(1.0, size / image.height)
    sides = (int(image.width * scale) // 2 * 2, int(image.height * scale) // 2 * 2)
    return np.asarray(image.resize(sides, Image.Resampling.LANCZOS))
