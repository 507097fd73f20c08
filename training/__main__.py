from harness.common.errors import run_command_line
from training.cli import main

run_command_line(main, "python -m training")
