"""`torchrun -m tier_train.cli run …` starts one process per device."""

from tier_train.cli import main

main()
