"""A tensor changed: what forged states and task files hold in its place."""


def nan(value):
    return value * float("nan")


def inf(value):
    return value * float("inf")


def fewer(value):
    return value[1:]


def deeper(value):
    return value[None]


def whole(value):
    return value.long()
