"""Drawing, and nothing else: frames come in, figures go out, each with the numbers and the runs behind it."""
