"""``python -m interp.cli`` is ``denoscope``: what ``accelerate launch -m`` needs."""

from interp.cli import main

main()
