"""The files of a small working effect, as the start of a new one."""
