"""What a user can meet. Every error says where, what, what was got, and how to mend it."""


class GantuneError(Exception):
    """A failure the user can act on. The command line prints its text and leaves with `exit_code`."""

    exit_code = 1


class SpecError(GantuneError):
    """A search space or configuration that cannot be used; nothing was started."""

    exit_code = 2


class PluginError(GantuneError):
    """A component that is unknown or does not keep its contract."""

    exit_code = 2


class AuditError(GantuneError):
    """A parameter that nothing reads, or a rate that is not the configuration's own."""


class DataError(GantuneError):
    """A data set that is missing, unreadable or of the wrong form."""


class CheckpointError(GantuneError):
    """A checkpoint that is missing, damaged or not one of ours."""


class StorageError(CheckpointError):
    """A disk that is full, read-only or gone: the machine's fault, not the configuration's."""


class ShortOfMemoryError(GantuneError):
    """A batch that the memory cannot hold, worked through in as many chunks as it was."""


class RunError(GantuneError):
    """A run directory that is missing, in use or made from another space."""


class NoSurvivorError(GantuneError):
    """A run in which no trial may be called the best."""

    exit_code = 3
