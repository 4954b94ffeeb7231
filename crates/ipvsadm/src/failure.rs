//! Why the program ends, and with which exit status.

use std::io;

use ipvs_table::Mistakes;
use lvs::{
    ApplyError,
    client::{Error, ErrorKind},
};

/// What ends the program early.
#[derive(Debug)]
pub(crate) struct Failure {
    status: u8,
    text: String,
}

/// The statuses of ipvsadm 1.31: for a command line that it does not take, and when it cannot speak to
/// the kernel's IPVS.
pub(crate) const UNUSABLE: u8 = 2;
/// When the kernel refuses something.
pub(crate) const REFUSED: u8 = 255;
/// When something cannot be listed, and for all that goes wrong with `--diff` and `--apply --dry-run`,
/// which return 2 when something differs.
pub(crate) const FAILED: u8 = 1;
/// As the shell has it when a reader goes away: 128 and the number of SIGPIPE.
const BROKEN_PIPE: u8 = 141;

impl Failure {
    pub(crate) fn new(status: u8, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    /// The same with another status.
    pub(crate) fn with_status(self, status: u8) -> Self {
        Self { status, ..self }
    }

    /// What the kernel refuses while something is listed has a status of its own.
    pub(crate) fn of_listing(self) -> Self {
        if self.status == REFUSED { self.with_status(FAILED) } else { self }
    }

    /// The same with another line behind it.
    pub(crate) fn with_note(self, note: &str) -> Self {
        Self { text: format!("{}\n{note}", self.text), ..self }
    }

    pub(crate) fn status(&self) -> u8 {
        self.status
    }

    /// The status and the text, which is empty where there is nothing to say.
    pub(crate) fn into_parts(self) -> (u8, String) {
        (self.status, self.text)
    }

    /// A file that could not be read.
    pub(crate) fn file(path: &str, error: &io::Error) -> Self {
        Self::new(FAILED, format!("{path} cannot be read: {error}"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match error.kind() {
            ErrorKind::NotAvailable | ErrorKind::PermissionDenied => UNUSABLE,
            _ => REFUSED,
        };
        Self::new(status, error.to_string())
    }
}

impl From<ApplyError> for Failure {
    fn from(error: ApplyError) -> Self {
        let status = match error.common().map(Error::kind) {
            Some(ErrorKind::NotAvailable | ErrorKind::PermissionDenied) => UNUSABLE,
            _ => REFUSED,
        };
        Self::new(status, error.to_string())
    }
}

impl From<Mistakes> for Failure {
    fn from(mistakes: Mistakes) -> Self {
        Self::new(mistakes.exit_status(), mistakes.to_string())
    }
}

/// Of the standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(BROKEN_PIPE, ""),
            _ => Self::new(FAILED, format!("the standard output cannot be written: {error}")),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::from(io::Error::from(error))
    }
}
