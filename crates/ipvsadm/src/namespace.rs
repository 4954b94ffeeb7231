//! The network namespace in which the table is.

use std::{fmt, fs::File, path::PathBuf};

use lvs::client::blocking::Client;

use crate::failure::{Failure, UNUSABLE};

/// A client in the namespace that `--netns` names, or in the caller's.
pub(crate) fn connect(namespace: Option<&str>) -> Result<Client, Failure> {
    let Some(namespace) = namespace else { return Ok(Client::connect()?) };
    let path = path(namespace);
    let refuse = |error: &dyn fmt::Display| {
        Failure::new(UNUSABLE, format!("network namespace {namespace}: {error}"))
    };
    let file =
        File::open(&path).map_err(|error| refuse(&format!("{}: {error}", path.display())))?;
    Client::connect_in(&file).map_err(|error| refuse(&error))
}

/// A path as it is, a process's namespace by its number, and any other by the name that
/// `ip netns add` gave it.
fn path(namespace: &str) -> PathBuf {
    if namespace.contains('/') {
        namespace.into()
    } else if !namespace.is_empty() && namespace.bytes().all(|byte| byte.is_ascii_digit()) {
        format!("/proc/{namespace}/ns/net").into()
    } else {
        PathBuf::from("/run/netns").join(namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_paths() {
        for (namespace, expected) in [
            ("web", "/run/netns/web"),
            ("web1", "/run/netns/web1"),
            ("4711", "/proc/4711/ns/net"),
            ("/proc/1/ns/net", "/proc/1/ns/net"),
            ("./x", "./x"),
        ] {
            assert_eq!(path(namespace), PathBuf::from(expected));
        }
    }
}
