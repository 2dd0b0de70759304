"""The exception tree. Every message says what was found, what is allowed and what to do next.

    TierError                exit
    ├── UsageError            2    asked for something that isn't there
    ├── RefusedImage          3    one image; collected per image, the process exits 0, 3 or 8
    │   ├── NotEvaluated           by rule: another modality, body part or view
    │   └── FailedImage            damaged, unsupported or ambiguous pixels
    ├── IntegrityError        4    bundle or checkpoint is not what was written
    ├── ParityError           5    two graphs that must agree do not
    └── DeviceError           6    the device that was asked for is not there

Exit 1 is left to bugs of ours.
"""

from __future__ import annotations


class TierError(Exception):
    """Base of all errors that a user can meet; `exit_code` is part of the contract."""

    exit_code = 1


class UsageError(TierError):
    exit_code = 2


class RefusedImage(TierError):
    """One image that gets no score. `reason` is a stable code, the message is for people.

    `study_key` is the StudyInstanceUID where the header could be read: it groups results in memory
    and is never shown.
    """

    exit_code = 3
    status = "failed"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.study_key: str | None = None
        self.view: str | None = None


class NotEvaluated(RefusedImage):
    status = "not_evaluated"


class FailedImage(RefusedImage):
    status = "failed"


class IntegrityError(TierError):
    exit_code = 4


class ParityError(TierError):
    exit_code = 5


class DeviceError(TierError):
    exit_code = 6
