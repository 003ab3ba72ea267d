"""The `faceq` command: talks to people, holds no logic."""
