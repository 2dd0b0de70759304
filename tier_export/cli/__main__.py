"""python -m tier_export.cli"""

from tier_export.cli import main

main()
