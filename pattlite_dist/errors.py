"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """Bad input: the message is one line that says what is wrong, where, and how to mend it.

    The command line prints it without a traceback and exits with status 2. Anything else that
    escapes is our bug and shows its traceback.
    """
