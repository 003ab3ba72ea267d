"""What the commands add to the id of a model that users could mistake for the original one."""

from typing import Final

_NOTES: Final = {
    "dlib": " (not the original vggface2: get that with `faceq models get vggface2`)",
    "stand-in": " (random weights for tests of shape and speed: it recognises near-identical pictures only)",
}


def model_note(model: str) -> str:
    """Return the note on a model, which follows its id on the terminal; empty if it needs none."""
    return _NOTES.get(model, "")
