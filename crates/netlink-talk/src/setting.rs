//! The files below /proc/sys. Those in `net` show each thread the settings of its own namespace.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

/// Reads a value, without the line's end.
///
/// # Errors
/// Those of the file.
pub fn read(path: &Path) -> io::Result<String> {
    Ok(fs::read_to_string(path)?.trim_end().to_owned())
}

/// Writes a value.
///
/// # Errors
/// Those of the file. A missing file is not created.
pub fn write(path: &Path, value: &str) -> io::Result<()> {
    // Not `fs::write`, which would try to create a missing file. With a line break, as sysctl writes
    // it: writing no bytes does nothing, and the kernel takes an empty line for an empty value.
    let line = format!("{value}\n");
    let written = fs::OpenOptions::new().write(true).open(path)?.write(line.as_bytes())?;
    // The kernel takes a value in one write; a second write would be another value.
    if written + 1 < line.len() {
        return Err(io::Error::new(
            io::ErrorKind::WriteZero,
            format!("the kernel took {written} of {} bytes of the value", line.len()),
        ));
    }
    Ok(())
}

/// A setting that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "made by the crates above")]
pub struct Changed<S> {
    /// Its path.
    pub setting: S,
    /// Its value before.
    pub before: String,
    /// Its value after, as the kernel shows it.
    pub after: String,
}

/// Restores the values from before, the last change first. Returns what could not be restored, in the
/// order of the changes, with the first error.
///
/// A setting is left alone if it has another value than `after` by now, since somebody else has changed
/// it since then, and if it is gone. One that fails does not keep the others from being restored.
pub fn restore<S, E>(
    changes: impl IntoIterator<Item = Changed<S>, IntoIter: DoubleEndedIterator>,
    mut read: impl FnMut(&S) -> Result<Option<String>, E>,
    mut write: impl FnMut(&S, &str) -> Result<(), E>,
) -> (Vec<Changed<S>>, Result<(), E>) {
    let (mut kept, mut result) = (Vec::new(), Ok(()));
    for change in changes.into_iter().rev() {
        let restored = match read(&change.setting) {
            Ok(Some(now)) if now == change.after => write(&change.setting, &change.before),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = restored {
            kept.push(change);
            result = result.and(Err(error));
        }
    }
    kept.reverse();
    (kept, result)
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::BTreeMap};

    use super::*;

    fn change(setting: &'static str, before: &str, after: &str) -> Changed<&'static str> {
        Changed { setting, before: before.to_owned(), after: after.to_owned() }
    }

    #[test]
    fn others_changes_stay_and_a_failure_keeps_nothing_back() {
        let table = RefCell::new(BTreeMap::from([
            ("mine", "1".to_owned()),
            ("theirs", "7".to_owned()),
            ("stuck", "1".to_owned()),
            ("stuck too", "1".to_owned()),
            ("empty", "8080".to_owned()),
        ]));
        let changes = ["mine", "theirs", "stuck", "stuck too", "gone"]
            .map(|setting| change(setting, "0", "1"))
            .into_iter()
            .chain([change("empty", "", "8080")]);
        let (kept, result) = restore(
            changes.collect::<Vec<_>>(),
            |setting| Ok(table.borrow().get(setting).cloned()),
            |setting, value| match setting.starts_with("stuck") {
                true => Err(*setting),
                false => {
                    table.borrow_mut().insert(setting, value.to_owned());
                    Ok(())
                }
            },
        );
        assert_eq!(result, Err("stuck too"), "the first that failed");
        assert_eq!(kept, [change("stuck", "0", "1"), change("stuck too", "0", "1")]);
        let table = table.into_inner();
        assert_eq!((&*table["mine"], &*table["theirs"], &*table["empty"]), ("0", "7", ""));
    }

    #[test]
    fn what_is_missing_is_not_made() {
        let missing = Path::new("/proc/sys/net/no_such_setting");
        assert_eq!(read(missing).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(write(missing, "1").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
