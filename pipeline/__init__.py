"""The inside of faceq: frames in, names out, with no network, no environment and no clock.

Reading order is the order a frame takes: `aws_events` unwraps it, `messages` types it, `images` decodes it,
`detect` finds its faces, `embed` turns them into vectors, `gallery` names them; `handlers` calls these in turn.
What the inside needs from outside is declared in `ports`; `errors` says what a caller does next.
"""
