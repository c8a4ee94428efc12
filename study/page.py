"""stub"""

NAME = "report.html"


def add_flags(parser):
    pass


def pictures(table, args):
    return []


def render(*a):
    return b"x"
