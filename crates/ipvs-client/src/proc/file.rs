//! Files of ip_vs in /proc.

use std::{fs::File, io};

use crate::{Error, ErrorKind, error::LOAD_IP_VS};

/// Opens a file of ip_vs.
pub(super) fn open(operation: &str, path: &str) -> Result<File, Error> {
    File::open(path).map_err(|error| refused(operation, error))
}

/// What it means that a file of ip_vs cannot be read.
pub(super) fn refused(operation: &str, error: io::Error) -> Error {
    let (kind, text) = match error.kind() {
        io::ErrorKind::NotFound => (
            ErrorKind::NotAvailable,
            format!("ip_vs is not loaded ({LOAD_IP_VS}), or /proc is not mounted"),
        ),
        io::ErrorKind::PermissionDenied => {
            (ErrorKind::PermissionDenied, "this user may not read the file".to_owned())
        }
        _ => (ErrorKind::Os, "the file cannot be read".to_owned()),
    };
    Error::file(operation, kind, &text, error)
}
