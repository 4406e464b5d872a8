# eeveectl completes itself, so that this always fits the installed version.
source <(COMPLETE=bash eeveectl)
