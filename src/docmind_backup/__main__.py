"""`python -m docmind_backup`: the same as the `docmind-backup` command."""

from docmind_backup.cli import console

console()
