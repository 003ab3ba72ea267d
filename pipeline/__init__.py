"""The inside of faceq: frames in, names out, without network, files, environment, clock or random numbers.

Read the modules in the order in which a frame passes them: `aws_events` unwraps it, `messages` parses it, `images`
decodes it, `detect` finds its faces, `embed` cuts them out, `gallery` names their vectors. `handlers` calls these in
turn. `ports` declares what the pipeline needs from outside, and `errors` what the caller of a failed call does next.
"""
