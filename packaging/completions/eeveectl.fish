# eeveectl completes itself, so that this always fits the installed version.
COMPLETE=fish eeveectl | source
