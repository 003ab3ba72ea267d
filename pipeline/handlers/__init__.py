"""The two Lambda functions: parse the event, call the parts of the pipeline in turn, send the result."""
